"""Damaged files whose checksums are all right, as an attacker would write them: typed errors, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import random

import pytest
import torch

import tersor
from tersor.coding import CodingConfig
from tersor.container import index as layout
from tersor.container.checksum import xxh3_64
from tersor.container.writer import Entry
from tersor.errors import TersorError
from tersor.tensors import Binary, Codebook, Dense, Ternary, Uniform
from tests.container.test_hostile import forged, raw_index
from tests.container.test_roundtrip import dense, written
from tests.container.test_trellis import path

CODERS = [("auto", "small"), ("auto", "fast"), ("rans", "small"), ("huffman", "small"), ("adaptive", "small")]


def entries() -> list[Entry]:
    """Every kind, most dtypes, masks, ties, shared tables; some streams long enough for all lanes of the coders."""
    g = torch.Generator().manual_seed(5)
    codes = torch.randint(-7, 8, (60, 30), generator=g).to(torch.int8)
    mask = torch.rand(60, 30, generator=g) < 0.3
    book = torch.arange(16.0)[None]
    normal = torch.randn(300, 240, generator=g)
    return [
        Entry("uniform", Uniform(codes.shape, torch.float32, mask, 4, codes, torch.rand(60, 3), None, 10)),
        Entry("wide", Uniform(codes.shape, torch.float16, None, 12, codes.short() * 99, torch.rand(1, 1), None, 0)),
        Entry("path", path(torch.Size((60, 5, 3, 2)), 3, seed=1)),
        Entry("pruned path", path(torch.Size((60, 30)), 300, seed=2, mask=mask)),
        Entry("codebook", Codebook(codes.shape, torch.float32, None, 4, codes.abs().view(torch.uint8), book)),
        Entry("again", Codebook(codes.shape, torch.float32, None, 4, codes.abs().view(torch.uint8), book)),
        Entry("binary", Binary(codes.shape, torch.bfloat16, None, codes > 0, torch.rand(60, 1))),
        Entry("ternary", Ternary(codes.shape, torch.float32, mask, codes.sign(), torch.rand(1, 1))),
        Entry("normal", dense(normal)),
        Entry("narrow", Dense(normal.shape, torch.float32, None, normal.to(torch.bfloat16))),
        Entry("half", dense(normal[:40].half())),
        Entry("pruned", Dense(normal.shape, torch.float32, normal > 1, normal)),
        Entry("integers", dense(torch.arange(500))),
        Entry("flags", dense(normal[:9] > 0.5)),
        Entry("scalar", dense(torch.tensor(7.0))),
        Entry("tie", None, "normal"),
    ]


def resealed(index: bytes, payload: bytes) -> bytes:
    """A file with this raw index and payload whose checksums fit, wherever the index says that chunks lie."""
    head = layout.ByteWriter()
    head.byte(0)
    head.varint(len(index))
    coded = bytes(head.data) + index
    for chunks in range(1, 4):
        try:
            found = layout.decode_index(coded, chunks)
        except TersorError:
            continue
        sizes = found.item_sizes()
        ends = list(itertools.accumulate(found.chunk_items))
        starts = [sum(sizes[:end]) for end in [0, *ends]]
        return forged(index, payload, [xxh3_64(payload[a:b]) for a, b in itertools.pairwise(starts)])
    return forged(index, payload, [xxh3_64(payload)])


def open_all(raw: bytes, out: dict[str, torch.Tensor]) -> int:
    """Every way to read a file; the number of those that gave tensors."""
    good = 0
    for way in range(3):
        with contextlib.suppress(TersorError):
            if way == 0:
                found = tersor.load(io.BytesIO(raw), threads=1, max_bytes=1 << 22)
                assert sum(value.nbytes for value in found.values()) < 1 << 23
            elif way == 1:
                tersor.load(io.BytesIO(raw), out=out, threads=1, max_bytes=1 << 22)
            else:
                with tersor.open(io.BytesIO(raw), threads=1, max_bytes=1 << 22) as reader:
                    for name in reader.names[-3:]:
                        for _, block in reader.stream(name):
                            assert block.nbytes < 1 << 23
            good += 1
    return good


@pytest.mark.parametrize("coder", CODERS, ids="-".join)
def test_damaged_payloads_with_right_checksums(coder):
    raw = written(entries(), {"note": b"some words"}, coding=CodingConfig(*coder))
    out = tersor.load(io.BytesIO(raw))
    index, payload, _ = raw_index(raw)
    assert open_all(resealed(index, payload), out) == 3
    random.seed(2)
    refused = 0
    for _ in range(15 if "small" in coder and coder[0] in ("auto", "adaptive") else 60):
        damaged = bytearray(payload)
        for _ in range(random.choice([1, 2, 30])):
            damaged[random.randrange(len(damaged))] = random.choice([0, 0xFF, random.randrange(256)])
        refused += open_all(resealed(index, bytes(damaged)), out) < 3
    assert refused > 0


@pytest.mark.parametrize("coder", CODERS[:2], ids="-".join)
def test_damaged_indexes_with_right_checksums(coder):
    raw = written(entries(), coding=CodingConfig(*coder))
    out = tersor.load(io.BytesIO(raw))
    index, payload, _ = raw_index(raw)
    names = sum(len(entry.name) + 1 for entry in entries())
    random.seed(3)
    opened = 0
    for _ in range(400):
        damaged = bytearray(index)
        for _ in range(random.choice([1, 1, 2])):
            at = random.randrange(3 + names, len(damaged))
            damaged[at] = random.choice([0, 1, damaged[at] ^ 1 << random.randrange(8), random.randrange(256)])
        opened += open_all(resealed(bytes(damaged), payload), out)
    assert opened < 400


def test_exchanged_sections_with_right_checksums():
    """Streams of one tensor under the index of another: right in themselves, wrong where they stand."""
    raw = written(entries(), coding=CodingConfig("auto", "fast"))
    other = written(list(reversed(entries()[:-1])), coding=CodingConfig("auto", "fast"))
    out = tersor.load(io.BytesIO(raw))
    index, payload, _ = raw_index(raw)
    _, strange, _ = raw_index(other)
    assert open_all(resealed(index, (strange + payload)[: len(payload)]), out) < 3
