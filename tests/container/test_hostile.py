"""Damaged and malicious files end in a typed error: never in a wrong tensor, a crash, or a huge allocation."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import pytest
import torch

from tersor.container import index as layout
from tersor.container.attachments import decode_attachment
from tersor.container.checksum import ContentId, xxh3_64
from tersor.container.reader import Reader
from tersor.container.wire import ByteReader, ByteWriter
from tersor.container.writer import Entry
from tersor.ends import steps_of_ends
from tersor.errors import CorruptFileError, InputError, LimitError, UnsupportedVersionError
from tersor.tensors import Codebook, Dense, Patched, SignedZeros, Ternary, Uniform
from tests.container.test_roundtrip import dense, written


def read_all(raw: bytes, **options) -> None:
    with Reader(io.BytesIO(raw), **options) as reader:
        list(reader.tensors())
        reader.attachments()


def sample() -> bytes:
    """A small file of every kind of content."""
    g = torch.Generator().manual_seed(3)
    codes = torch.randint(-3, 4, (12, 20), generator=g).to(torch.int8)
    mask = torch.rand(12, 20, generator=g) < 0.4
    entries = [
        Entry("a.weight", Uniform(codes.shape, torch.float32, mask, 4, codes, torch.rand(12, 1), None, 20)),
        Entry("a.bias", dense(torch.randn(12, generator=g))),
        Entry(
            "b.weight",
            Codebook(codes.shape, torch.float16, None, 3, codes.abs().view(torch.uint8), torch.rand(1, 8)),
        ),
        Entry("c.weight", Ternary(codes.shape, torch.float32, None, codes.sign(), torch.rand(1, 1))),
        Entry("d.weight", None, "a.weight"),
        Entry("e.weight", patched(codes)),
        Entry("f.weight", signed_zeros(mask)),
        Entry("g.weight", None, "f.weight", copied=True),
    ]
    return written(entries, {"config.json": b'{"layers": 3}'}, source="torch")


def patched(codes: torch.Tensor) -> Patched:
    """A grid by ends with an offset, two runs of which are exact."""
    rows, shape = len(codes), codes.shape
    high, low = torch.ones(rows, 2, dtype=torch.bfloat16), torch.full((rows, 2), -0.5, dtype=torch.bfloat16)
    scale, offset = steps_of_ends(high, low, 4)
    base = Uniform(shape, torch.float32, None, 4, codes, scale, None, 10, offset, False, high, low)
    return Patched(shape, torch.float32, None, base, 20, torch.tensor([2, 7]), torch.full((2, 20), torch.nan))


def signed_zeros(mask: torch.Tensor) -> SignedZeros:
    """A pruned tensor half of whose zeros are negative."""
    base = Dense(mask.shape, torch.float32, mask, torch.ones(mask.shape, dtype=torch.int8))
    return SignedZeros(mask.shape, torch.float32, mask, base, torch.arange(mask.numel()).reshape(mask.shape) % 2 == 0)


def forged(index: bytes, payload: bytes = b"", checksums: list[int] | None = None) -> bytes:
    """A file with this raw index whose checksums are all right."""
    tail = ByteWriter()
    sums = [] if checksums is None else checksums
    tail.varint(len(sums))
    for value in sums:
        tail.data += value.to_bytes(8, "little")
    tail.byte(0)
    tail.varint(len(index))
    tail.data += index
    start = layout.MAGIC + bytes([layout.VERSION])
    end = bytes(tail.data) + len(tail.data).to_bytes(4, "little")
    digest = ContentId()
    digest.update(start + payload + end)
    content_id = digest.digest()
    return start + payload + end + content_id + xxh3_64(start + end + content_id).to_bytes(8, "little")


def raw_index(raw: bytes) -> tuple[bytes, bytes, list[int]]:
    """Raw index, payload and checksums of a sound file."""
    size = int.from_bytes(raw[-28:-24], "little")
    tail = raw[-28 - size : -28]
    head = ByteReader(tail)
    chunks = head.varint(1 << 20, "chunks")
    sums = [int.from_bytes(tail[head.position + 8 * i :][:8], "little") for i in range(chunks)]
    return layout._unpack(tail[head.position + 8 * chunks :]), raw[5 : -28 - size], sums


def test_forging_a_sound_index_gives_a_sound_file():
    read_all(forged(*raw_index(sample())))


def test_errors_name_the_file_and_the_fault(tmp_path: Path):
    path = tmp_path / "model.tsr"
    path.write_bytes(b"PK\x03\x04 not ours at all, but long enough to be read as one")
    with pytest.raises(CorruptFileError, match=r"model\.tsr: this is not a \.tsr file"):
        Reader(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match=r"model\.tsr"):
        Reader(path)
    raw = bytearray(sample())
    raw[4] = 9
    path.write_bytes(raw)
    with pytest.raises(UnsupportedVersionError, match=r"version 9.*update tersor"):
        Reader(path)
    path.write_bytes(sample()[:-100])
    with pytest.raises(CorruptFileError, match=r"truncated|damaged"):
        Reader(path)
    with pytest.raises(InputError, match=r"missing\.tsr: cannot be read"):
        Reader(tmp_path / "missing.tsr")
    with pytest.raises(InputError, match="cannot be read"):
        Reader(tmp_path)


def test_mutated_indexes_with_right_checksums_end_in_typed_errors():
    """What a checksum cannot catch: an index that was forged with care. Any outcome but a typed error or a sound
    read is a bug; memory stays bounded since a wrong size never fits the payload."""
    index, payload, sums = raw_index(sample())
    random.seed(0)
    for _ in range(4000):
        mutated = bytearray(index)
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            mutated[random.randrange(len(mutated))] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
        if random.random() < 0.2:
            del mutated[random.randrange(len(mutated)) :]
        with contextlib.suppress(CorruptFileError):
            read_all(forged(bytes(mutated), payload, sums), max_bytes=1 << 20)


def test_mutated_payloads_with_right_checksums_end_in_typed_errors():
    index, payload, _ = raw_index(sample())
    random.seed(1)
    for _ in range(3000):
        mutated = bytearray(payload)
        for _ in range(random.choice([1, 2, 8])):
            mutated[random.randrange(len(mutated))] = random.randrange(256)
        with contextlib.suppress(CorruptFileError):
            read_all(forged(index, bytes(mutated), [xxh3_64(bytes(mutated))]))


def one_tensor(dims: list[int], name: bytes = b"x") -> bytes:
    """The raw index of one dense float32 tensor, stored raw."""
    out = ByteWriter()
    out.data += bytes([1, 0, 0]) + name + b"\0" + bytes([0, 0, len(dims)])
    for dim in dims:
        out.varint(dim)
    out.data += bytes([0, 0])
    return bytes(out.data)


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        (one_tensor([1 << 50]), LimitError, "dimension"),
        (one_tensor([1 << 30, 1 << 30]), LimitError, "elements"),
        (one_tensor([0, 1 << 40, 1 << 40]), LimitError, "elements"),
        (one_tensor([1] * 9), LimitError, "rank"),
        (one_tensor([1], b"n" * 1025), CorruptFileError, "1024"),
        (one_tensor([1], b"\xff"), CorruptFileError, "UTF-8"),
        (b"\xff\xff\xff\xff\x7f\0\0", LimitError, "number of tensors"),
        (b"", CorruptFileError, "ends early"),
        (one_tensor([1]) + b"\0", CorruptFileError, "too many"),
    ],
)
def test_oversized_declarations_are_rejected_before_allocation(index, error, says):
    with pytest.raises(error, match=says):
        read_all(forged(index, bytes(4), [xxh3_64(bytes(4))]))


def test_a_declared_terabyte_is_rejected_although_its_payload_is_tiny():
    """A constant plane codes any number of elements in a few bytes; what counts is what they decode to."""
    raw = written([Entry("x", dense(torch.zeros(1000, 1000)))])
    with pytest.raises(LimitError, match="max_bytes"):
        read_all(raw, max_bytes=3_999_999)
    read_all(raw, max_bytes=4_000_000)


def test_an_index_that_claims_to_be_huge_is_rejected():
    tail = bytes([0, 1]) + b"\xff\xff\xff\xff\x7f" + b"x"
    with pytest.raises(LimitError, match="size of the index"):
        layout.decode_tail(tail)


def test_codes_outside_of_their_codebook_are_rejected():
    codes = torch.full((4, 4), 7, dtype=torch.uint8)
    raw = written([Entry("w", Codebook(codes.shape, torch.float32, None, 3, codes, torch.rand(1, 8)))])
    index, payload, sums = raw_index(raw)
    assert index.count(bytes([2, 1, 8])) == 1  # bits - 1, codebooks, centroids
    smaller = index.replace(bytes([2, 1, 8]), bytes([2, 1, 7]))
    with pytest.raises(CorruptFileError):
        read_all(forged(smaller, payload, sums))


@pytest.mark.parametrize("places", [[3, 3], [5, 4], [12], [-1], [2**62, 2**62 + 1]])
def test_patches_outside_of_their_tensor_are_rejected(places):
    base = dense(torch.zeros(12, 20))
    tensor = Patched(base.shape, base.dtype, None, base, 20, torch.tensor(places), torch.ones(len(places), 20))
    with pytest.raises(CorruptFileError, match="a patch outside of its tensor"):
        read_all(written([Entry("w", tensor)]))


def test_bases_have_no_bases():
    codes = torch.zeros(12, 20, dtype=torch.int8)
    base = patched(codes)
    tensor = Patched(base.shape, base.dtype, None, base, 20, base.places, base.values)
    with pytest.raises(CorruptFileError, match="a base of the kind 6"):
        read_all(written([Entry("w", tensor)]))


@pytest.mark.parametrize(
    "tensor",
    [
        Uniform(
            torch.Size((4, 4)), torch.int32, None, 4, torch.zeros(4, 4, dtype=torch.int8), torch.ones(1, 1), None, 0
        ),
        Ternary(torch.Size((4, 4)), torch.bool, None, torch.zeros(4, 4, dtype=torch.int8), torch.ones(1, 1)),
        Dense(torch.Size((4, 4)), torch.int32, None, torch.zeros(4, 4)),
        Dense(torch.Size((4, 4)), torch.float32, None, torch.zeros(4, 4, dtype=torch.complex64)),
        Codebook(torch.Size((4, 4)), torch.int32, None, 1, torch.zeros(4, 4, dtype=torch.uint8), torch.ones(1, 2)),
    ],
    ids=lambda tensor: f"{tensor.kind}-{tensor.dtype}",
)
def test_representations_that_cannot_be_of_their_dtype_are_rejected(tensor):
    with pytest.raises(CorruptFileError, match="for a tensor of torch"):
        read_all(written([Entry("w", tensor)]))


def test_a_grid_with_signed_zeros_from_ends_is_rejected():
    codes, zero = torch.zeros(4, 35, dtype=torch.int8), torch.ones(4, 2, dtype=torch.int32)
    tensor = Uniform(codes.shape, torch.float32, None, 4, codes, torch.ones(4, 2), zero, 19)
    index, payload, sums = raw_index(written([Entry("w", tensor)]))
    parameters = bytes([3 | 0x40 | 0x10, 19])
    assert index.count(parameters) == 1  # flags and width, group size
    other = index.replace(parameters, bytes([parameters[0] | 0xA0, 19]))
    with pytest.raises(CorruptFileError, match="unknown parameters 0xf3"):
        read_all(forged(other, payload, sums))


@pytest.mark.parametrize("method", [layout.METHOD_TEXT, layout.METHOD_XZ])
def test_attachment_bombs_are_rejected(method):
    head = ByteWriter()
    head.varint(1 << 40)
    with pytest.raises(LimitError):
        decode_attachment(bytes(head.data) + b"xx", method)
    head = ByteWriter()
    head.varint(1 << 14)
    with pytest.raises(CorruptFileError):
        decode_attachment(bytes(head.data) + b"\xfd7zXZ\0 broken", layout.METHOD_XZ)
