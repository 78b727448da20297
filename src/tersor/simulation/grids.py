"""Weights on a uniform grid, straight through: what trainings of `Quantize` and of `FixedPoint` share.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from tersor.layers import matrix_shape
from tersor.quantization.config import owned_mask
from tersor.simulation.base import Simulation
from tersor.simulation.fitting import kept_or_all, spread, sums_of_groups
from tersor.simulation.straight_through import rounded
from tersor.tensors import Uniform


class GridSimulation(Simulation):
    """w = s (q - z), q = round(clip(W / s + z, -2^(bits-1), 2^(bits-1) - 1)).

    The gradient of rounding is 1 and that of clipping 0 or 1, so that the chain rule gives equations 3 and 5 of Esser
    et al. 2020: for W it is 1 inside the range and 0 outside, for s it is q - z - W / s inside and q - z outside.
    """

    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.bits = bits
        self.group_size = group_size

    @abstractmethod
    def steps(self) -> tuple[Tensor, Tensor | None]:
        """(s, z): float32 (O, G) or (1, 1), with gradients; z holds integers, None for a symmetric grid."""

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class."""
        scale, zero = self._of_each_weight(weight)
        codes = self._codes(weight, scale, zero)
        values = (codes if zero is None else codes - zero) * scale
        return values.reshape(weight.shape).to(weight.dtype)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Uniform:
        """See the base class."""
        codes = self._codes(weight, *self._of_each_weight(weight)).reshape(weight.shape)
        scale, zero = self.steps()
        return Uniform(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            self.bits,
            codes.to("cpu", torch.int8 if self.bits <= 8 else torch.int16).contiguous(),
            scale.to("cpu"),
            None if zero is None else zero.to("cpu", torch.int32),
            self.group_size,
        )

    def _of_each_weight(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        length = matrix_shape(weight.shape)[1]
        scale, zero = self.steps()
        return (
            spread(scale, self.group_size, length),
            None if zero is None else spread(zero, self.group_size, length),
        )

    def _codes(self, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """q, float32 (O, N)."""
        levels = weight.to(torch.float32).reshape(matrix_shape(weight.shape)) / scale
        if zero is not None:
            levels = levels + zero
        return rounded(levels.clamp(-(1 << self.bits - 1), (1 << self.bits - 1) - 1))


def gains(weight: Tensor, mask: Tensor | None, group_size: int, levels: int) -> Tensor:
    """1 / sqrt(N Q_P), float32 (O, G) or (1, 1): the scale of steps' gradients (Esser et al. 2020, section 2.2).

    N: weights that share the step and are kept. levels: Q_P, the grid's largest level.
    """
    kept = kept_or_all(weight, mask).reshape(matrix_shape(weight.shape))
    counts = sums_of_groups(kept.to(torch.float32), group_size).clamp(min=1.0)
    return (counts * max(levels, 1)).rsqrt()
