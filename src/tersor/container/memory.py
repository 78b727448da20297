"""Memory for many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tersor.container.dtypes import WireType

_OWN = 4 << 20  # bytes from which on an array is allocated by itself; numpy asks for huge pages from there on, too
_SLAB = 16 << 20
_ALIGN = 64


def allocate(requests: Sequence[tuple[int, WireType]]) -> list[np.ndarray]:
    """Uninitialised words for tensors of so many elements of such types.

    Small ones share slabs of up to 16 MiB, because the first touch of a page costs as much as decoding it, and large
    allocations get pages that are 512 times as large. A slab is freed with the last tensor in it.
    """
    sizes = [-(-count * row.words * row.word.itemsize // _ALIGN) * _ALIGN for count, row in requests]
    left = sum(size for size in sizes if size < _OWN)
    slab = np.empty(0, np.uint8)
    found = []
    for (count, row), size in zip(requests, sizes, strict=True):
        if size >= _OWN:
            found.append(np.empty(count * row.words, row.word))
            continue
        if size > slab.size:
            slab = _aligned(min(left, _SLAB))
        found.append(slab[: count * row.words * row.word.itemsize].view(row.word))
        slab = slab[size:]
        left -= size
    return found


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + _ALIGN, np.uint8)
    start = -raw.ctypes.data % _ALIGN
    return raw[start : start + size]
