"""Learned step sizes (Esser et al. 2020, LSQ; with zero points, Bhalgat et al. 2020, LSQ+).

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.layers import matrix_shape
from tersor.quantization import Quantize, RepresentationConfig
from tersor.simulation.base import Clock, Training
from tersor.simulation.fitting import checked, kept_or_all, sums_of_groups, units
from tersor.simulation.grids import GridSimulation, gains
from tersor.simulation.straight_through import in_units, rounded, significant, straight_through

SMALLEST_FACTOR = 1 / 256
"""Steps stay above this share of their first value: at zero and below they would not come back."""


@dataclass(frozen=True)
class LearnedSteps(Training):
    """`Quantize` (2 to 16 bits) whose steps, and zero points if it has them, are trained with the weights.

    init: the first steps: "fit" takes those of least squared error, "mean" LSQ's 2 mean|W| / sqrt(Q_P) (symmetric
          grids only).
    rate: in shares of a step's first value; zero points in shares of the range.

    Gradients of steps are scaled by 1 / sqrt(N Q_P), section 2.2 of the paper. Steps keep 8 significant bits (16 above
    8 bits a weight), as those of `Quantize.fit` do, rounded straight through.
    """

    name: ClassVar[str] = "learned_steps"

    init: str = "fit"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("init", ("fit", "mean"))

    def simulate(
        self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None
    ) -> LearnedStepsSimulation:
        """See the base class. UsageError for one bit a weight, too: that is what `Binarize` is for."""
        config = checked(self, representation, Quantize, weight, mask)
        if config.bits < 2:
            raise UsageError(f"{self.name}: it trains 2 to 16 bits a weight, got bits=1; use Binarize for one")
        if self.init == "mean" and not config.symmetric:
            raise UsageError(f"{self.name}: init='mean' is for symmetric grids; use init='fit' with a zero point")
        fitted = config.fit(weight, mask)
        scale, zero = fitted.scale.to(weight.device), fitted.zero
        if self.init == "mean":
            scale = mean_steps(weight, mask, fitted.group_size, config.bits)
        levels = (1 << config.bits - 1) - 1 if zero is None else (1 << config.bits) - 1
        gain = gains(weight, mask, fitted.group_size, levels)
        start = None if zero is None else zero.to(weight.device, torch.float32)
        return LearnedStepsSimulation(config.bits, fitted.group_size, scale, start, gain)


class LearnedStepsSimulation(GridSimulation):
    """scale, zero: the first steps and zero points, float32 (O, G) or (1, 1). gain: of their gradients, alike."""

    unit: Tensor
    gain: Tensor
    start: Tensor | None

    def __init__(self, bits: int, group_size: int, scale: Tensor, zero: Tensor | None, gain: Tensor) -> None:
        super().__init__(bits, group_size)
        self.register_buffer("unit", units(scale))
        self.register_buffer("gain", gain)
        self.register_buffer("start", zero)
        self.factor = nn.Parameter(torch.ones_like(self.unit))
        self.shift = None if zero is None else nn.Parameter(torch.zeros_like(self.unit))

    def steps(self) -> tuple[Tensor, Tensor | None]:
        """See the base class."""
        scale = significant(in_units(self.factor, self.unit, self.gain), 8 if self.bits <= 8 else 16)
        if self.shift is None or self.start is None:
            return scale, None
        span = float((1 << self.bits) - 1)
        # LSQ+ descends on the offset b = -s z: what it would do to b is done to z, counted in ranges.
        size = scale.detach().abs().clamp(min=1e-15)
        shift = self.shift.to(torch.float32)
        return scale, rounded(straight_through(self.start + shift * span, shift * (self.gain / (size * size * span))))

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Keeps steps away from zero."""
        self.factor.clamp_(min=SMALLEST_FACTOR)


def mean_steps(weight: Tensor, mask: Tensor | None, group_size: int, bits: int) -> Tensor:
    """2 mean|W| / sqrt(Q_P) over the kept weights of each group (Esser et al. 2020, section 2.1): (O, G) or (1, 1).

    1 where that is zero.
    """
    kept = kept_or_all(weight, mask).reshape(matrix_shape(weight.shape)).to(torch.float32)
    magnitudes = weight.detach().to(torch.float32).reshape(kept.shape).abs() * kept
    counts = sums_of_groups(kept, group_size).clamp(min=1.0)
    steps = 2 * sums_of_groups(magnitudes, group_size) / counts / ((1 << bits - 1) - 1) ** 0.5
    return torch.where(steps > 0, steps, torch.ones_like(steps))
