"""The bits of tensors as arrays, and what the native core must know of their dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class NumberKind:
    """numbers: for the first look. order: of the words. precision: of the floats that grids are sought in, or None."""

    numbers: Any
    order: Any
    precision: Any = None


_INTEGERS = NumberKind(core.Numbers.other, core.Order.signed_integer)
_NATURALS = NumberKind(core.Numbers.other, core.Order.unsigned_integer)
KINDS = {
    torch.float32: NumberKind(core.Numbers.single, core.Order.floating, core.Precision.single),
    torch.float16: NumberKind(core.Numbers.half, core.Order.floating, core.Precision.half),
    torch.bfloat16: NumberKind(core.Numbers.bfloat, core.Order.floating, core.Precision.bfloat),
    torch.float64: NumberKind(core.Numbers.real64, core.Order.floating),
    torch.int16: _INTEGERS,
    torch.int32: _INTEGERS,
    torch.int64: _INTEGERS,
    torch.uint16: _NATURALS,
    torch.uint32: _NATURALS,
    torch.uint64: _NATURALS,
}
"""The dtypes that are looked at. One byte an element leaves nothing to gain."""


def words_of(values: Tensor) -> NDArray[Any]:
    """The bits of contiguous `values` (any shape) as a flat array of unsigned words that shares their memory."""
    return values.reshape(-1).view(torch.uint8).numpy().view(WORDS[values.itemsize])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether contiguous tensors of one shape and dtype, any, are equal bit by bit."""
    one, other = (tensor.reshape(-1).view(torch.uint8).numpy() for tensor in (a, b))
    return np.array_equal(one, other)
