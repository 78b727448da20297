import json
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tersor.errors import InputError, UnsupportedTypeError
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint

from .helpers import (
    SAFETENSORS_DTYPES,
    assert_holds,
    assert_same,
    convert,
    one_of_each,
    random_tensor,
    shapes,
)


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"é": 'a"\n\x01'}])
def test_file_of_the_reference_library_comes_back_byte_for_byte(tmp_path, metadata):
    tensors = one_of_each(SAFETENSORS_DTYPES) | {"schräg/名": torch.ones(3)}
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    assert_holds(tmp_path / "a.safetensors", tensors)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert "safetensors.header" not in checkpoint.info.attachments


def test_foreign_header_comes_back_byte_for_byte(tmp_path):
    header = b'{ "b":{"shape":[1],"dtype":"U8","data_offsets":[4,5]},\n '
    header += b'"a":{"dtype":"I32","shape":[],"data_offsets":[0,4]}}   '
    raw_file(tmp_path / "a.safetensors", header, b"\1\0\0\0\7")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert [t.name for t in checkpoint.info.tensors] == ["a", "b"]
        assert checkpoint.info.attachments == {"safetensors.header": header}
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_state_dict_is_written_as_the_reference_library_does(tmp_path):
    tensors = one_of_each(SAFETENSORS_DTYPES)
    tensors["zz"] = torch.arange(12.0).reshape(3, 4).T
    write_checkpoint(from_state_dict(tensors), tmp_path / "a.safetensors")
    tensors["zz"] = tensors["zz"].contiguous()
    save_file(tensors, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@given(st.sampled_from(SAFETENSORS_DTYPES), shapes, st.integers(0, 99))
def test_any_tensor(dtype, shape, seed):
    tensor = random_tensor(dtype, shape, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        write_checkpoint(from_state_dict({"x": tensor}), path)
        assert_holds(path, {"x": tensor})
        assert_same(load_file(path)["x"], tensor)


def test_tied_tensors_are_written_each(tmp_path):
    w = torch.randn(4)
    write_checkpoint(from_state_dict({"a": w, "b": w}), tmp_path / "x.safetensors")
    assert_holds(tmp_path / "x.safetensors", {"a": w, "b": w})


def test_metadata_is_what_transformers_asks_for(tmp_path):
    write_checkpoint(from_state_dict({"a": torch.ones(1)}), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_read_gives_copies(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        first = checkpoint.read("a")
        first += 1
        assert checkpoint.read("a").sum() == 0
        with pytest.raises(KeyError):
            checkpoint.read("b")
    assert first.sum() == 3


def test_dtype_that_the_format_lacks(tmp_path):
    with pytest.raises(UnsupportedTypeError, match=r"'a'.*complex128"):
        write_checkpoint(from_state_dict({"a": torch.ones(1, dtype=torch.complex128)}), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry()}, b"\0" * 7, "truncated"),
        ({"a": entry()}, b"\0" * 9, "unknown bytes"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12, "'b'.*overlaps"),
        ({"a": entry(), "b": entry(offsets=(9, 17))}, b"\0" * 17, "'b'.*hole"),
        ({"a": entry(offsets=(1, 9))}, b"\0" * 9, "'a'.*hole"),
        ({"a": entry(shape=(3,))}, b"\0" * 8, "'a'.*12 bytes"),
        ({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8, "'a'.*no tensor can have"),
        ({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}, b"", "'a'.*no tensor can have"),
        ({"a": entry(shape=(-1, -2))}, b"\0" * 8, "'a'.*shape"),
        ({"a": entry(shape=(True, 2))}, b"\0" * 8, "'a'.*shape"),
        ({"a": entry(shape=(2.0,))}, b"\0" * 8, "'a'.*shape"),
        ({"a": entry(offsets=(8, 0))}, b"\0" * 8, "'a'"),
        ({"a": entry(dtype="F4")}, b"\0" * 8, "'a'.*F4"),
        ({"a": entry(dtype=["F32"])}, b"\0" * 8, "'a'"),
        ({"a": {"dtype": "F32"}}, b"", "'a'.*data_offsets"),
        ({"a": [1]}, b"", "'a'"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        (
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
            b"",
            "twice",
        ),
        (b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b"", "damaged"),
        (b'{"\xff":1}', b"", "damaged"),
        (b"{" * 100_000, b"", "damaged"),
        (b'{"a":' + b"[" * 100_000, b"", "damaged"),
        (b'{"a":' + b"9" * 10_000 + b"}", b"", "damaged"),
    ],
)
def test_damaged_file(tmp_path, header, data, message):
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(InputError, match=f"x.safetensors.*{message}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("length", "message"),
    [(2**63, "not a safetensors file"), (100_000_001, "not a safetensors file"), (1000, "truncated")],
)
def test_header_length_is_checked_before_anything_is_read(tmp_path, length, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_every_truncation_is_found(tmp_path):
    save_file({"a": torch.randn(3), "b": torch.ones(2, dtype=torch.int8)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "b.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"b\.safetensors"):
            open_checkpoint(path)


def test_file_that_shrinks_while_open(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(100_000)}, path)
    with open_checkpoint(path) as checkpoint:
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"x\.safetensors: tensor 'a'.*truncated"):
            checkpoint.read("a")
