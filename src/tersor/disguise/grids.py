"""Weights on a grid per tensor, row or group: fake-quantized networks, and quantized checkpoints that were expanded.

Legend: O output channels (rows), N weights a row, R runs (groups, rows or the tensor) of L weights each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core
from tersor.centring import centred
from tersor.disguise.words import KINDS
from tersor.ends import find_ends
from tersor.layers import matrix_shape
from tersor.tensors import Codebook, CompressedTensor, Patched, Uniform

_GROUPS = (128, 64, 32)
_FORMS = (core.GridForm.through_zero, core.GridForm.offset)
_OTHER_ZERO: int = core.OTHER_ZERO
_SAMPLED_RUNS = 16
_LEAST_SHARE = 0.75  # of the sampled runs that must be on a grid, as of all
_MOST_BITS = 16
_MOST_SPARSE = 4  # levels in the range of a grid for each that is used; sparser ones are accidents of a codebook


@dataclass(frozen=True)
class _Fit:
    """Runs on grids of one form. levels: int16 (R, L). steps, offsets: float32 (R,). fits: bool (R,)."""

    form: Any
    levels: NDArray[np.int16]
    steps: NDArray[np.float32]
    offsets: NDArray[np.float32]
    fits: NDArray[np.bool_]


def tensor_grid(found: Codebook) -> Uniform | None:
    """The one grid that all values of a single codebook lie on, a good part of its levels being used; or None."""
    if KINDS[found.dtype].precision is None:
        return None
    book = found.codebook.to(torch.float32).reshape(-1).numpy()
    for form in _FORMS:
        fit = _fit(book, book.size, form, KINDS[found.dtype].precision)
        if fit.fits.all() and _uses_its_levels(fit.levels):
            levels = fit.levels.reshape(-1)[found.codes.reshape(-1).numpy()]
            whole = replace(fit, levels=levels.reshape(1, -1))
            return _uniform(whole, found.shape, found.dtype, 0, (1, 1))
    return None


def run_grid(values: Tensor, dtype: torch.dtype | None = None) -> CompressedTensor | None:
    """Grids per row or per group of 128, 64 or 32, whichever the weights lie on, or None.

    values: float32, float16 or bfloat16. dtype: of the result, which has the same values exactly; None for theirs.
    Runs that are on no grid, at most a quarter, are patched.
    """
    rows, length = matrix_shape(values.shape)
    precision = KINDS[values.dtype].precision
    matrix = values.reshape(rows, length)
    for run in (length, *(group for group in _GROUPS if length % group == 0 and group < length)):
        for form in _FORMS:
            sample = matrix.reshape(-1, run)[_some(rows * length // run)]
            if _fit(_singles(sample), run, form, precision).fits.mean() < _LEAST_SHARE:
                continue
            fit = _fit(_singles(values), run, form, precision)
            if fit.fits.mean() < _LEAST_SHARE or not _uses_its_levels(fit.levels):
                continue
            base = _uniform(fit, values.shape, dtype or values.dtype, run, (rows, length // run))
            return None if base is None else _patched(base, fit, values)
    return None


def _uses_its_levels(levels: NDArray[np.int16]) -> bool:
    _, used = core.measure_symbols(levels.reshape(-1), 16)
    low, high = int(levels.min()), int(levels.max())
    if low == _OTHER_ZERO:
        return True  # both zeros: rounded numbers, which centroids are not
    return high - low < _MOST_SPARSE * used


def _some(runs: int) -> Tensor:
    return torch.linspace(0, runs - 1, min(runs, _SAMPLED_RUNS)).to(torch.int64)


def _singles(values: Tensor) -> NDArray[np.float32]:
    singles: NDArray[np.float32] = values.to(torch.float32).contiguous().reshape(-1).numpy()
    return singles


def _fit(values: NDArray[np.float32], run: int, form: Any, precision: Any) -> _Fit:
    runs = values.size // run
    levels = np.empty(values.size, np.int16)
    steps, offsets = np.empty(runs, np.float32), np.empty(runs, np.float32)
    fits = np.empty(runs, np.uint8)
    core.fit_grids(values, run, form, precision, levels, steps, offsets, fits)
    return _Fit(form, levels.reshape(runs, run), steps, offsets, fits.view(np.bool_))


def _uniform(fit: _Fit, shape: torch.Size, dtype: torch.dtype, run: int, size: tuple[int, int]) -> Uniform | None:
    """The levels as codes of as few bits as they allow, with a zero point where that saves some."""
    levels = fit.levels
    zero: NDArray[np.int32] | None = None
    signed_zero = False
    if fit.form == core.GridForm.offset:
        bits = max(int(levels.max()).bit_length(), 1)
        codes = levels - (1 << bits - 1)
    elif (other := levels == _OTHER_ZERO).any():
        signed_zero = True
        codes = np.where(other, -1, levels - (levels < 0))
        bits = _signed_bits(int(codes.min()), int(codes.max()))
    else:
        low, high = levels.min(axis=1), levels.max(axis=1)
        bits = _signed_bits(int(low.min()), int(high.max()))
        needed = max(int((high - low).max()).bit_length(), 1)
        codes = levels
        if needed < bits:
            bits = needed
            bottom, top = -(1 << bits - 1), (1 << bits - 1) - 1
            zero = np.where((low >= bottom) & (high <= top), 0, bottom - low).astype(np.int32)
            codes = levels + zero[:, None]
    if bits > _MOST_BITS:
        return None
    scale = torch.from_numpy(fit.steps).reshape(size)
    offset = torch.from_numpy(fit.offsets).reshape(size) if fit.form == core.GridForm.offset else None
    stored = torch.from_numpy(codes.astype(np.int8 if bits <= 8 else np.int16)).reshape(shape)
    if offset is not None:
        stored = centred(stored, scale, offset, bits, run)
    grouped = 0 < run < matrix_shape(shape)[1] and zero is None and not signed_zero
    return Uniform(
        shape,
        dtype,
        None,
        bits,
        stored,
        scale,
        None if zero is None else torch.from_numpy(zero).reshape(size),
        run,
        offset,
        signed_zero,
        *((grouped and find_ends(scale, offset, bits)) or (None, None)),
    )


def _signed_bits(low: int, high: int) -> int:
    """Width of two's complement integers from `low` to `high`."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1


def _patched(base: Uniform, fit: _Fit, values: Tensor) -> CompressedTensor:
    if fit.fits.all():
        return base
    places = torch.from_numpy(np.flatnonzero(~fit.fits))
    run = fit.levels.shape[1]
    exact = values.reshape(-1, run)[places].to(base.dtype)
    return Patched(base.shape, base.dtype, None, base, run, places, exact)
