"""Compressed tensors whose positions change places or become zero: exactly, in the same representation, or not at all.

Representations share a number for each weight (`per_weight`) and a mask, of the tensor's shape; beside them some have
tables with a row for each row of the matrix (steps, centroids). Whatever else they have stays. What comes out is held
against what is wanted: a representation that cannot follow gives None.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from tersor.layers import matrix_shape
from tersor.tensors import CompressedTensor, word_dtype

_CANDIDATES = 2
"""Codes of present zeros that are tried for new ones: a grid of one step has one, a codebook one for each sign."""


def rearranged(tensor: CompressedTensor, dim: int, source: Tensor) -> CompressedTensor | None:
    """What dequantizes to `tensor.dequantize().index_select(dim, source)`; None where the representation has no such.

    source: int64 on the CPU, each position of the dimension once. Rows take their steps and centroids along. Along a
    row, steps of groups cannot follow; codes on a trellis can nowhere.
    """
    rows = matrix_shape(tensor.shape)[0]
    changes: dict[str, Any] = {}
    for name, part in _parts(tensor).items():
        if part is tensor.per_weight or name == "mask":
            changes[name] = _selected(part, dim, source)
        elif dim == 0 and len(tensor.shape) > 1 and part.dim() == 2 and part.shape[0] == rows:
            changes[name] = _selected(part, 0, source)
    return _checked(tensor, changes, _selected(tensor.dequantize(), dim, source))


def cleared(tensor: CompressedTensor, where: Tensor) -> CompressedTensor | None:
    """What dequantizes to zero where `where` (bool, of the tensor's shape, on the CPU) is True, and else as `tensor`.

    With a mask these weights are pruned; without one they get a code of zero. None where there is none.
    """
    values = tensor.dequantize()
    wanted = values.masked_fill(where, 0)
    if tensor.mask is not None:
        return _checked(tensor, {"mask": tensor.mask & ~where}, wanted)
    codes = tensor.per_weight
    words = codes.contiguous().view(word_dtype(codes.dtype))
    field = next((name for name, part in _parts(tensor).items() if part is codes), None)
    if field is None:
        return None
    for code in [0, *words[values == 0].unique().tolist()[:_CANDIDATES]]:
        found = _checked(tensor, {field: words.masked_fill(where, code).view(codes.dtype)}, wanted)
        if found is not None:
            return found
    return None


def _parts(tensor: CompressedTensor) -> dict[str, Tensor]:
    found = {field.name: getattr(tensor, field.name) for field in fields(tensor)}
    return {name: part for name, part in found.items() if isinstance(part, Tensor)}


def _selected(part: Tensor, dim: int, source: Tensor) -> Tensor:
    """`index_select` for any dtype: torch has none for some."""
    words = part.contiguous().view(word_dtype(part.dtype))
    return words.index_select(dim, source).view(part.dtype)


def _checked(tensor: CompressedTensor, changes: dict[str, Any], wanted: Tensor) -> CompressedTensor | None:
    """`tensor` with these fields, if that gives what is wanted and a file can hold it."""
    if getattr(tensor, "trellis", 1) > 1:
        return None
    made = replace(tensor, **changes)
    return made if torch.equal(made.dequantize(), wanted) else None
