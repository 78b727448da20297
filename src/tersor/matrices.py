"""Weights and masks as the numeric core takes them: float32 and bool matrices that share the tensors' memory.

Legend: O output channels (rows), N weights a row (see `layers.matrix_shape`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.errors import MismatchError, TersorError, UnsupportedTypeError
from tersor.layers import matrix_shape

BLOCK = 1 << 20
"""Weights that a fit converts or copies at a time, where it must: fits stay near the size of the weight."""


class NonFiniteError(TersorError):
    """A weight holds NaN or Inf; only the lossless representation keeps those."""


def float_matrix(weight: Tensor) -> NDArray[np.float32]:
    """`weight` of any real float dtype as a C-contiguous float32 (O, N); shares its memory where it can.

    Raises UnsupportedTypeError for other dtypes, and NonFiniteError for NaN, Inf, or float64 values that
    float32 cannot reach.
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
                f"{bad} of {values.size} values of a float64 weight are beyond +-{largest:.4g}, the range of "
                "the float32 that is computed in; rescale the weight, or keep it lossless"
            )
        raise NonFiniteError(f"{bad} of {values.size} values are NaN or Inf; repair the weight, or keep it lossless")
    return values


def mask_matrix(mask: Tensor | None, weight: Tensor) -> NDArray[np.bool_] | None:
    """`mask` as a C-contiguous bool (O, N). MismatchError unless it is bool and of the weight's shape."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise MismatchError(
            f"a mask must be bool and of the weight's shape {tuple(weight.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    kept: NDArray[np.bool_] = mask.detach().to("cpu").contiguous().numpy().reshape(matrix_shape(weight.shape))
    return kept


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that cover range(count)."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _count_nonfinite(values: NDArray[np.float32]) -> int:
    flat = values.reshape(-1)
    return sum(int(np.count_nonzero(~np.isfinite(flat[block]))) for block in blocks(flat.size))
