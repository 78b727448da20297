"""The order of the tests: a first look that costs next to nothing, then what it leaves possible, smallest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tersor._native import core
from tersor.disguise import few_values, grids, narrow
from tersor.disguise.estimates import array_bytes, estimate
from tersor.disguise.words import KINDS, same_bits, words_of
from tersor.layers import matrix_shape
from tersor.tensors import Codebook, CompressedTensor, Dense

_LEAST = 1024  # bytes; below, there is hardly more to gain than parameters and tables take
_FEW, _FEW_IN_ROW, _ZEROS, _GRID = (getattr(core.Hint, n).value for n in ("few", "few_in_row", "zeros", "grid"))
_SMALL_BOOK = 32  # values; a step for each row would not take less
_WORTH = 0.97  # of the plain tensor's bytes, by estimate
_WORTH_NARROW = 1.01  # a narrower dtype says what the tensor is, and takes no decision from its coder


def recognise(tensor: Tensor) -> CompressedTensor | None:
    """What `tensor` (any shape and dtype) is in disguise, exact to the bit, or None where it is plain numbers.

    The result, one of

    - `Uniform`: on a grid per tensor, row or group of 128, 64 or 32 weights;
    - `Codebook`: at most 256 distinct values, or 16 in each row;
    - `Dense` of a narrower float or of integers, or with its zeros pruned;
    - `SignedZeros`: pruned ones that a mask was multiplied into;
    - `Patched`: a grid, with the few rows or groups that are not on it,

    is the one of fewest bytes by estimate, fewer than those of the plain values, and `dequantize` gives the bits of
    `tensor`. Plain tensors are found out from a few hundred values. The result shares no memory with `tensor`.
    """
    kind = KINDS.get(tensor.dtype)
    if kind is None or tensor.nbytes < _LEAST:
        return None
    values = tensor.detach().cpu().contiguous()
    words = words_of(values)
    hints = core.probe_disguise(words, *matrix_shape(values.shape), kind.numbers)
    if not hints:
        return None
    plain = array_bytes(words)
    found = sorted(((estimate(candidate), number, candidate) for number, candidate in enumerate(_all(values, hints))))
    for size, _, candidate in found:
        worth = _WORTH_NARROW if _is_narrow(candidate) else _WORTH
        if size < worth * plain and same_bits(candidate.dequantize(), values):
            return _owned(candidate, values)
    return None


def _is_narrow(found: CompressedTensor) -> bool:
    return isinstance(found, Dense) and found.values.dtype != found.dtype


def _owned(found: CompressedTensor, values: Tensor) -> CompressedTensor:
    if isinstance(found, Dense) and found.values.data_ptr() == values.data_ptr():
        return replace(found, values=values.clone())
    return found


def _all(values: Tensor, hints: int) -> Iterator[CompressedTensor]:
    """Every representation that the hints and the values allow, but those that another one makes pointless."""
    book = _book(values, hints)
    if book is not None:
        yield book
        if book.mask is None and (grid := grids.tensor_grid(book)) is not None:
            yield grid
    elif hints & _FEW_IN_ROW and (books := few_values.row_codebooks(values)) is not None:
        yield books
    narrow_enough = book is not None and book.codebook.shape[1] <= _SMALL_BOOK
    if values.dtype == torch.float64 and (singles := narrow.as_single(values, hints)) is not None:
        yield Dense(values.shape, values.dtype, None, singles)
        more = core.probe_disguise(words_of(singles), *matrix_shape(values.shape), KINDS[torch.float32].numbers)
        runs = grids.run_grid(singles, values.dtype) if more & _GRID and not narrow_enough else None
    else:
        runs = grids.run_grid(values) if hints & _GRID and not narrow_enough else None
    if runs is not None:
        yield runs
    if values.dtype.is_floating_point:
        if hints & _ZEROS:
            yield few_values.dense_without_zeros(values)
            if book is None and (signed := few_values.with_signed_zeros(values)) is not None:
                yield signed
        if (dense := narrow.narrower(values, hints)) is not None:
            yield dense
            if hints & _ZEROS:
                yield replace(few_values.dense_without_zeros(values), values=dense.values)


def _book(values: Tensor, hints: int) -> Codebook | None:
    if not hints & _FEW:
        return None
    pruned = few_values.pruned_codebook(values) if hints & _ZEROS else None
    return pruned if pruned is not None else few_values.codebook(values)
