import struct

import numpy as np
import pytest
import torch

from tersor.errors import InputError, TersorWarning, UnsupportedTypeError, UsageError
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint
from tersor.interop.memory import StateDict
from tersor.layers import matrix_shape

from .helpers import assert_holds, assert_same, convert, random_tensor

gguf = pytest.importorskip("gguf")
PLAIN = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def write(path, plain=(), quantized=(), file_type=None, alignment=None):
    """A GGUF file of the reference library. plain: name -> tensor; quantized: name -> (array, type)."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny ü")
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_array("tokenizer.ggml.tokens", ["a", "<s>", "ü"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("rope", 0.5)
    writer.add_bool("flag", True)
    for name, tensor in dict(plain).items():
        if tensor.dtype == torch.bfloat16:
            data = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, tensor.numpy())
    for name, (values, kind) in dict(quantized).items():
        kind = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if "GGUF." not in name}


def plain_tensors():
    return {f"t.{name}": random_tensor(dtype, (2, 3, 4), seed) for seed, (dtype, name) in enumerate(PLAIN.items())}


@pytest.mark.parametrize("alignment", [None, 64])
def test_plain_file_comes_back_byte_for_byte(tmp_path, alignment):
    tensors = plain_tensors() | {"vector": torch.arange(5.0)}
    path = write(tmp_path / "a.gguf", tensors, file_type=1, alignment=alignment)
    assert_holds(path, tensors)
    convert(path, tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tensors_become_float32(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    path = write(tmp_path / "a.gguf", {"norm": torch.ones(64)}, {"w": (values, kind)}, file_type=2)
    expected = gguf.quants.dequantize(gguf.GGUFReader(path).tensors[1].data, gguf.GGMLQuantizationType[kind])
    with open_checkpoint(path) as checkpoint:
        info = checkpoint.info.tensors[1]
        assert (info.name, info.shape, info.dtype, info.note) == ("w", (6, 64), torch.float32, kind)
        assert checkpoint.info.tensors[0].note is None
        assert_same(checkpoint.read("w"), torch.from_numpy(expected.copy()))
        with pytest.warns(TersorWarning, match="F32"):
            write_checkpoint(checkpoint, tmp_path / "b.gguf")
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    assert [(t.name, t.tensor_type.name) for t in reader.tensors] == [("norm", "F32"), ("w", "F32")]
    np.testing.assert_array_equal(reader.tensors[1].data, expected)
    before, after = fields(path), fields(tmp_path / "b.gguf")
    assert before.pop("general.file_type") == 2
    assert after.pop("general.file_type") == 0
    assert before == after
    assert before["general.name"] == "tiny ü"


def test_large_quantized_tensor_in_several_pieces(tmp_path):
    values = np.random.default_rng(0).normal(size=(1100, 1024)).astype(np.float32)
    path = write(tmp_path / "a.gguf", (), {"w": (values, "Q8_0")})
    expected = gguf.quants.dequantize(gguf.GGUFReader(path).tensors[0].data, gguf.GGMLQuantizationType.Q8_0)
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.read("w"), torch.from_numpy(expected.copy()))


def made_of(grid):
    """The definition of a grid, with numpy."""
    rows, length = matrix_shape(grid.codes.shape)
    codes = grid.codes.reshape(rows, length // grid.group_size, grid.group_size).numpy().astype(np.float32)
    scale = grid.scale.reshape(rows, length // grid.group_size, 1).numpy()
    if grid.offset is None:
        return torch.from_numpy(codes * scale).reshape(grid.codes.shape)
    count = codes + np.float32(1 << grid.bits - 1)
    return torch.from_numpy(count * scale + grid.offset.reshape(scale.shape).numpy()).reshape(grid.codes.shape)


def grid_and_values(path, name="w"):
    with open_checkpoint(path) as checkpoint:
        return checkpoint.read_grid(name), checkpoint.read(name)


@pytest.mark.parametrize("shape", [(6, 64), (64,), (3, 2, 96), (5, 32), (0, 32), (1100, 1024)])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_grids_are_exactly_what_dequantizing_gives(tmp_path, kind, shape):
    values = np.random.default_rng(1).normal(0.1, 1.0, size=shape).astype(np.float32)
    path = write(tmp_path / "a.gguf", (), {"w": (values, kind)})
    grid, expected = grid_and_values(path)
    assert (grid.bits, grid.group_size, grid.codes.dtype) == (int(kind[1]), 32, torch.int8)
    assert (grid.offset is None) == kind.endswith("_0")
    rows, length = matrix_shape(shape)
    assert grid.scale.shape == (rows, length // 32) and grid.scale.dtype == torch.float32
    assert grid.nbytes == values.size + 4 * (values.size // 32) * (1 if grid.offset is None else 2)
    assert_same(made_of(grid), expected)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_grids_of_any_blocks(tmp_path, kind):
    """Scales and offsets that are negative, zero of either sign, denormal or the largest; all codes."""
    path, ours = write(tmp_path / "a.gguf", (), {"w": (np.zeros((64, 320), np.float32), kind)}), tmp_path / "b.gguf"
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    random = np.random.default_rng(2)
    blocks = random.integers(0, 256, (640, size), np.uint8)
    halves = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0xBC00, 0x3C01, 0x7BFF, 0xFBFF], np.uint16)
    steps = random.choice(halves, (640, 2 if kind.endswith("_1") else 1))
    blocks[:, : 2 * steps.shape[1]] = steps.view(np.uint8)
    ours.write_bytes(path.read_bytes()[: -blocks.size] + blocks.tobytes())
    expected = gguf.quants.dequantize(blocks.reshape(64, -1), gguf.GGMLQuantizationType[kind])
    grid, values = grid_and_values(ours)
    assert_same(values, torch.from_numpy(expected))
    assert_same(made_of(grid), values)
    blocks[7, :2] = (0x00, 0x7C)  # infinite
    ours.write_bytes(path.read_bytes()[: -blocks.size] + blocks.tobytes())
    with open_checkpoint(ours) as checkpoint:
        assert checkpoint.read_grid("w") is None


def test_what_is_not_on_an_affine_grid_has_none(tmp_path):
    values = np.ones((2, 256), np.float32)
    path = write(tmp_path / "a.gguf", {"plain": torch.ones(64)}, {"w": (values, "TQ1_0")})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read_grid("plain") is None
        assert checkpoint.read_grid("w") is None
        with pytest.raises(KeyError):
            checkpoint.read_grid("missing")
    assert from_state_dict({"w": torch.ones(4, 4)}).read_grid("w") is None


def test_only_gguf_sources_are_written(tmp_path):
    with pytest.raises(UsageError, match=r"GGUF source.*state_dict.*safetensors"):
        write_checkpoint(from_state_dict({"a": torch.ones(1)}), tmp_path / "x.gguf")


def test_dtype_that_the_format_lacks(tmp_path):
    with open_checkpoint(write(tmp_path / "a.gguf", {"w": torch.ones(2)})) as checkpoint:
        attachments = checkpoint.info.attachments
    with pytest.raises(UnsupportedTypeError, match=r"'w'.*bool"):
        write_checkpoint(StateDict({"w": torch.ones(2, dtype=torch.bool)}, attachments, "gguf"), tmp_path / "b.gguf")


def test_every_truncation_is_found(tmp_path):
    whole = write(tmp_path / "a.gguf", {"a": torch.arange(4.0), "b": torch.arange(8.0)}).read_bytes()
    path = tmp_path / "b.gguf"
    for length in [*range(4, len(whole) - 32, 3), len(whole) - 33]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"b\.gguf"):
            open_checkpoint(path)


def file_of(*entries, count=None, kv=b"", n_kv=0, version=3, data=b"\0" * 64):
    head = struct.pack("<4sIQQ", b"GGUF", version, len(entries) if count is None else count, n_kv) + kv
    head += b"".join(entries)
    return head + bytes(-len(head) % 32) + data


def entry(name=b"a", dims=(4,), kind=0, offset=0):
    return struct.pack(f"<Q{len(name)}sI{len(dims)}QIQ", len(name), name, len(dims), *dims, kind, offset)


def kv(key, kind, value):
    return struct.pack(f"<Q{len(key)}sI", len(key), key, kind) + value


NESTED = struct.pack("<IQ", 9, 1) * 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file_of(entry(), version=1), "version 1"),
        (file_of(entry(), version=3 << 24), "version"),
        (file_of(entry(), count=2**60), "more than the file holds"),
        (file_of(entry(), n_kv=2**60), "more than the file holds"),
        (file_of(entry(), entry()), "'a' occurs twice"),
        (file_of(entry(dims=(1,) * 9)), "9 dimensions"),
        (file_of(entry(dims=(2**40, 2**40))), "shape"),
        (file_of(entry(dims=(2**40,))), "truncated"),
        (file_of(entry(dims=(0, 2**40, 2**40))), "no tensor can have"),
        (file_of(entry(dims=(33,), kind=2)), "blocks of 32"),
        (file_of(entry(kind=9999)), "type 9999"),
        (file_of(entry(offset=1)), "unaligned"),
        (file_of(entry(), entry(b"b", offset=0)), "'[ab]'.*inside another"),
        (file_of(entry(), entry(b"b", offset=2**63)), "truncated"),
        (file_of(entry(b"\xff")), "UTF-8"),
        (file_of(n_kv=1, kv=kv(b"general.alignment", 4, b"\0\0\0\0")), "alignment is 0"),
        (file_of(n_kv=1, kv=kv(b"k", 99, b"")), "type 99"),
        (file_of(n_kv=1, kv=kv(b"k", 9, NESTED)), "type 9"),
        (file_of(n_kv=1, kv=kv(b"k", 9, struct.pack("<IQ", 4, 2**62))), "more than the file holds"),
        (file_of(n_kv=1, kv=kv(b"k", 8, struct.pack("<Q", 2**63))), "more than the file holds"),
    ],
)
def test_damaged_file(tmp_path, data, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_the_least_file_is_read(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(file_of(entry(), entry(b"scalar", (), 0, 32), data=struct.pack("<4f", 1, 2, 3, 4) + b"\0" * 48))
    assert_holds(path, {"a": torch.arange(1.0, 5.0), "scalar": torch.tensor(0.0)})


@pytest.mark.parametrize("header", [b"", b"\1\0\0\0\0\0\0\0", struct.pack("<Q", 0) + b"x", b"\xff" * 40])
def test_damaged_attachment(tmp_path, header):
    with pytest.raises(InputError, match=r"attachment 'gguf\.header'"):
        write_checkpoint(StateDict({}, {"gguf.header": header}, "gguf"), tmp_path / "x.gguf")
