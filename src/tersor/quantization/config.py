"""What all representations share: the config's base, and rounding.

The legend of all files here: O output channels (rows), N weights a row (see `layers.matrix_shape`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tersor.matrices import NonFiniteError
from tersor.options import Options
from tersor.tensors import CompressedTensor

__all__ = ["NonFiniteError", "RepresentationConfig", "owned_mask", "round_means", "round_significant"]


ROUNDING_COST = 0.001
"""Share of the squared error that the rounding of scales and centroids may add."""


@dataclass(frozen=True)
class RepresentationConfig(Options):
    """Base of the representations' configs: how a weight is to be represented."""

    @abstractmethod
    def fit(self, weight: Tensor, mask: Tensor | None = None) -> CompressedTensor:
        """Represents `weight` (any shape) under `mask` (bool, same shape, True where kept; None keeps all).

        The result owns the mask. Values at masked positions have no influence on it. Lossy representations
        raise NonFiniteError for NaN or Inf and UnsupportedTypeError for dtypes that are no real floats.
        """


def owned_mask(mask: Tensor | None) -> Tensor | None:
    """The mask as a `CompressedTensor` owns it: a contiguous copy on the CPU that nobody else changes."""
    return None if mask is None else mask.detach().to("cpu", copy=True).contiguous()


def round_means(means: NDArray[np.float32], mass: NDArray[np.float64], error: float) -> NDArray[np.float32]:
    """`means` with the fewest significant bits of 8, 16 and 24 that add at most ROUNDING_COST to the error.

    Each entry is the mean of values of total weight `mass` (same shape) that it stands for, so that moving it by d
    adds d^2 times that weight to `error`, the sum of their squared errors. Distinct entries stay distinct.
    """
    distinct = np.unique(means).size
    for bits in (8, 16):
        rounded = round_significant(means, bits)
        shift = rounded.astype(np.float64) - means
        if np.sum(mass * shift * shift) <= ROUNDING_COST * error and np.unique(rounded).size == distinct:
            return rounded
    return means


def round_significant(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """`values` (finite) rounded to `bits` significant bits (2..24), ties to even; 8 bits is bfloat16.

    Numbers that would round to zero or infinity are rounded towards themselves instead: a subnormal stays as
    it is, the largest stay at the largest number of that precision.
    """
    drop = 24 - bits
    if drop == 0:
        return values.copy()
    raw = np.ascontiguousarray(values).view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1)
    keep = np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    rounded = ((raw + half + ((raw >> np.uint32(drop)) & np.uint32(1))) & keep).view(np.float32)
    truncated = (raw & keep).view(np.float32)
    rounded = np.where(np.isfinite(rounded), rounded, truncated)
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, values, rounded).astype(np.float32)
