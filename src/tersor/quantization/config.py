"""What all representations share: the config's base, and the weight as the fits want it.

Legend: O output channels (rows), N weights a row (see `layers.matrix_shape`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.errors import MismatchError, TersorError, UnsupportedTypeError
from tersor.layers import matrix_shape
from tersor.options import Options
from tersor.tensors import CompressedTensor

BLOCK = 1 << 20
"""Weights that a fit converts or copies at a time, where it must: fits stay near the size of the weight."""


class NonFiniteError(TersorError):
    """A weight holds NaN or Inf; only the lossless representation keeps those."""


@dataclass(frozen=True)
class RepresentationConfig(Options):
    """Base of the representations' configs: how a weight is to be represented."""

    @abstractmethod
    def fit(self, weight: Tensor, mask: Tensor | None = None) -> CompressedTensor:
        """Represents `weight` (any shape) under `mask` (bool, of the same shape, True where kept; None: all kept).

        The result owns the mask. Values at masked positions have no influence on it. Lossy representations raise
        NonFiniteError for NaN or Inf and UnsupportedTypeError for dtypes that are no real floats.
        """


def float_matrix(weight: Tensor) -> NDArray[np.float32]:
    """`weight` of any real float dtype as a C-contiguous float32 (O, N); shares its memory if that already fits.

    Raises UnsupportedTypeError for other dtypes, and NonFiniteError for NaN, Inf, or float64 values that float32
    cannot reach.
    """
    if not weight.dtype.is_floating_point:
        raise UnsupportedTypeError(
            f"only float weights can be quantized, got {weight.dtype} of shape {tuple(weight.shape)}; "
            "keep this one lossless"
        )
    source = weight.detach().to("cpu").contiguous()
    values: NDArray[np.float32] = source.to(torch.float32).numpy().reshape(matrix_shape(weight.shape))
    bad = _count_nonfinite(values)
    if bad:
        if weight.dtype == torch.float64 and bool(torch.isfinite(source).all()):
            largest = torch.finfo(torch.float32).max
            raise NonFiniteError(
                f"{bad} of {values.size} values of a float64 weight are beyond the float32 range (+-{largest:.4g}) "
                "that quantization computes in; rescale the weight, or keep it lossless"
            )
        raise NonFiniteError(
            f"{bad} of {values.size} values are NaN or Inf; repair the weight, or keep it lossless (which is exact)"
        )
    return values


def mask_matrix(mask: Tensor | None, weight: Tensor) -> NDArray[np.bool_] | None:
    """`mask` as a C-contiguous bool (O, N), or None. MismatchError unless it is bool and of the weight's shape."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise MismatchError(
            f"a mask must be bool and of the weight's shape {tuple(weight.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    kept: NDArray[np.bool_] = mask.detach().to("cpu").contiguous().numpy().reshape(matrix_shape(weight.shape))
    return kept


def owned_mask(mask: Tensor | None) -> Tensor | None:
    """The mask as a `CompressedTensor` owns it: a contiguous copy on the CPU, which later changes cannot reach."""
    return None if mask is None else mask.detach().to("cpu", copy=True).contiguous()


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that cover range(count)."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def round_significant(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """`values` (finite) rounded to `bits` significant bits (2..24), ties to even; 8 bits is bfloat16.

    Numbers that would round to zero or infinity are rounded towards themselves instead: a subnormal stays as it is,
    the largest stay at the largest number of that precision.
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


def _count_nonfinite(values: NDArray[np.float32]) -> int:
    flat = values.reshape(-1)
    return sum(int(np.count_nonzero(~np.isfinite(flat[block]))) for block in blocks(flat.size))
