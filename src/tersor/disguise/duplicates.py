"""Tensors of one checkpoint that are equal, though not tied: found by a few of their bytes, then compared in full."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tersor._native import core
from tersor.disguise.words import same_bits

_LEAST_BYTES = 64  # smaller ones take hardly more than a reference
_MOST_READ = 4  # earlier tensors that differ where it is not hashed, such as nearly empty ones, are not all read again
_PLACES, _PER_PLACE = 16, 64  # bytes that are hashed


class Duplicates:
    """Remembers the tensors that it has seen by shape, dtype and a hash of some bytes: tens of bytes each."""

    def __init__(self) -> None:
        """Of no tensors yet."""
        self._seen: dict[tuple[torch.dtype, torch.Size, int], list[str]] = {}

    def find(self, name: str, values: Tensor, read: Callable[[str], Tensor]) -> str | None:
        """Name of an earlier tensor that has the dtype, shape and bits of `values`; else None, and `name` is noted.

        read: gives an earlier tensor again, to compare it.
        """
        if values.nbytes < _LEAST_BYTES:
            return None
        values = values.detach().cpu().contiguous()
        key = (values.dtype, values.shape, _sample_hash(values))
        earlier = self._seen.setdefault(key, [])
        for candidate in earlier[-_MOST_READ:]:
            if same_bits(read(candidate).detach().cpu().contiguous(), values):
                return candidate
        earlier.append(name)
        return None


def _sample_hash(values: Tensor) -> int:
    """XXH3 of up to 1 KiB of the tensor's bytes."""
    octets = values.reshape(-1).view(torch.uint8).numpy()
    if octets.size > _PLACES * _PER_PLACE:
        last = octets.size - _PER_PLACE
        octets = np.concatenate([octets[at : at + _PER_PLACE] for at in range(0, last + 1, last // (_PLACES - 1))])
    value: int = core.xxh3_64(octets)
    return value
