"""Floats stored wider than they are: the values of narrower floats, and whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor._native import core
from tersor.disguise.words import same_bits
from tersor.tensors import Dense

_BFLOAT, _HALF, _SINGLE, _INTEGERS = (getattr(core.Hint, n).value for n in ("bfloat", "half", "single", "integers"))
_FLOATS = ((_BFLOAT, torch.bfloat16), (_HALF, torch.float16))
_INTEGER_DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def as_single(values: Tensor, hints: int) -> Tensor | None:
    """float64 `values` as float32, if it has all of them exactly (no NaN or infinity); else None."""
    if not hints & _SINGLE or not bool(torch.isfinite(values).all()):
        return None
    singles = values.to(torch.float32)
    return singles if same_bits(singles.to(torch.float64), values) else None


def narrower(values: Tensor, hints: int) -> Dense | None:
    """A `Dense` of a narrower float or an integer dtype that has all of `values` (real floats) exactly, or None."""
    if hints & _INTEGERS and (found := _as_integers(values)) is not None:
        return found
    for hint, dtype in _FLOATS:
        if hints & hint:
            found = Dense(values.shape, values.dtype, None, values.to(dtype))
            if same_bits(found.dequantize(), values):
                return found
    return None


def _as_integers(values: Tensor) -> Dense | None:
    smallest, largest = torch.aminmax(values)
    for dtype in _INTEGER_DTYPES:
        limits = torch.iinfo(dtype)
        if dtype.itemsize < values.itemsize and limits.min <= float(smallest) and float(largest) <= limits.max:
            found = Dense(values.shape, values.dtype, None, values.to(dtype))
            return found if same_bits(found.dequantize(), values) else None
    return None
