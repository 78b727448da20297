"""The grid of activations: unsigned integers with one step and one zero point a tensor.

x = scale * (q - zero), low <= q <= high (Jacob et al. 2018, equation 1). Zero is a point of the grid, so that padding
and what a ReLU cuts off are exact. Signed codes are the same with the zero point in the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import CalibrationError, UsageError

_SMALLEST = 2.0**-100
"""Steps are larger: products of two of them are no subnormal numbers, and 1 / step is finite."""


@dataclass(frozen=True)
class Affine:
    """Codes of activations, uint8.

    scale: the step, a positive float32 number. zero: the code of 0.0. low, high: the smallest and the largest code.
    """

    scale: float
    zero: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)) or not 0 <= self.low <= self.zero <= self.high <= 255:
            raise UsageError(f"a grid of activations needs a positive step and 0 <= low <= zero <= high <= 255: {self}")

    def round(self, x: Tensor) -> Tensor:
        """The nearest codes of `x`, float of any shape, as numbers of its dtype: x / scale + zero, ties to even."""
        zero = torch.tensor(self.zero, dtype=x.dtype, device=x.device)
        return torch.add(zero, x, alpha=1.0 / self.scale).round_().clamp_(self.low, self.high)

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest codes of `x`, float32 of any shape, as uint8 of its memory format."""
        return self.round(x).to(torch.uint8)

    def dequantize(self, codes: Tensor) -> Tensor:
        """float32, of the shape of `codes` (uint8, or whole numbers)."""
        return (codes.float() - self.zero) * self.scale


def affine(low: float, high: float, bits: int, symmetric: bool = False) -> Affine:
    """The grid of `bits` bits whose ends are nearest to `low` and `high`, finite; both are widened to include 0.

    symmetric: the zero point is 2^(bits-1), with as many codes below as above.
    CalibrationError for ends that are NaN or Inf.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationError(f"no grid reaches from {low} to {high}: look for NaN or Inf in the inputs")
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        half = 1 << bits - 1
        return Affine(_step(max(high, -low) / (half - 1)), half, 1, 2 * half - 1)
    top = (1 << bits) - 1
    scale = _step((high - low) / top)
    return Affine(scale, min(max(round(-low / scale), 0), top), 0, top)


def _step(scale: float) -> float:
    """As float32, in which all arithmetic on activations is."""
    return float(torch.tensor(max(scale, _SMALLEST), dtype=torch.float32))
