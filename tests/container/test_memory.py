"""Arrays that share slabs."""

from __future__ import annotations

import itertools

import torch

from tersor.container.dtypes import wire_type
from tersor.container.memory import allocate


def test_arrays_are_apart_aligned_and_of_their_size():
    rows = [wire_type(dtype, "") for dtype in (torch.float32, torch.bool, torch.complex128, torch.bfloat16)]
    requests = [(count, row) for count in (0, 1, 3, 100_000, 700_000, 1_000_001) for row in rows]
    found = allocate(requests)
    for words, (count, row) in zip(found, requests, strict=True):
        assert words.dtype == row.word
        assert words.size == count * row.words
        assert words.ctypes.data % 64 == 0 or not 0 < words.nbytes < 4 << 20
    spans = sorted((words.ctypes.data, words.ctypes.data + words.nbytes) for words in found if words.nbytes)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_small_arrays_share_memory_and_large_ones_do_not():
    row = wire_type(torch.float32, "")
    small, other, large = allocate([(10, row), (10, row), (1 << 20, row)])
    assert small.base is other.base
    assert large.base is None


def test_nothing_is_allocated_for_nothing():
    assert allocate([]) == []
