"""The largest scores of each row, an exact number of them, ties by position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core
from tersor.errors import UnsupportedTypeError
from tersor.matrices import NonFiniteError

Scores = NDArray[np.float32] | NDArray[np.float64]


def score_array(scores: Tensor) -> Scores:
    """Scores of any float dtype as C-contiguous float32, or float64 where they are. Raises as `float_matrix` does."""
    if not scores.dtype.is_floating_point:
        raise UnsupportedTypeError(f"scores must be floats, got {scores.dtype} of shape {tuple(scores.shape)}")
    source = scores.detach().cpu().contiguous()
    values: Scores = (source if source.itemsize == 8 else source.float()).numpy()
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise NonFiniteError(f"{bad} of {values.size} scores are NaN or Inf; look at the weights and the samples")
    return values


def largest(scores: Scores, count: int) -> NDArray[np.bool_]:
    """bool (R, N): the `count` <= N largest of each row of `scores` (R, N); of equal ones those that come first."""
    keep = np.zeros(scores.shape, np.bool_)
    if count >= scores.shape[1]:
        keep[:] = True
    elif count > 0 and scores.dtype == np.float32 and not (scores < 0).any():
        core.keep_largest(np.ascontiguousarray(scores), count, keep)
    elif count > 0:
        for row, kept in zip(scores, keep, strict=True):
            _largest_of_row(row, count, kept)
    return keep


def _largest_of_row(row: Scores, count: int, keep: NDArray[np.bool_]) -> None:
    edge = np.partition(row, row.size - count)[row.size - count]
    np.greater(row, edge, out=keep)
    equal = np.flatnonzero(row == edge)
    keep[equal[: count - int(np.count_nonzero(keep))]] = True
