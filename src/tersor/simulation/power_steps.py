"""Fixed point with trained steps that are powers of two (Jain et al. 2020, TQT).

Legend: O output channels (rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.quantization import FixedPoint, RepresentationConfig
from tersor.simulation.base import Training
from tersor.simulation.fitting import SMALLEST_UNIT, checked
from tersor.simulation.grids import GridSimulation, gains
from tersor.simulation.straight_through import clamped, rounded, straight_through

EXPONENTS = (-126.0, 120.0)
"""Of the steps that `FixedPoint` knows: -n, n its fraction bits."""


@dataclass(frozen=True)
class PowerSteps(Training):
    """`FixedPoint`: steps 2^e, e = round(the trained exponent), straight through; e stays where `fraction` is given.

    rate: in octaves.
    """

    name: ClassVar[str] = "power_steps"

    def simulate(
        self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None
    ) -> PowerStepsSimulation:
        """See the base class."""
        config = checked(self, representation, FixedPoint, weight, mask)
        fitted = config.fit(weight, mask)
        gain = gains(weight, mask, fitted.group_size, (1 << config.bits - 1) - 1)
        exponents = (torch.frexp(fitted.scale).exponent - 1).to(weight.device, torch.float32)
        return PowerStepsSimulation(config.bits, fitted.group_size, exponents, gain, config.fraction is None)


class PowerStepsSimulation(GridSimulation):
    """exponents: the first ones, whole numbers, float32 (O, 1) or (1, 1). gain: of their gradients, alike."""

    gain: Tensor

    def __init__(self, bits: int, group_size: int, exponents: Tensor, gain: Tensor, trained: bool) -> None:
        super().__init__(bits, group_size)
        self.register_buffer("gain", gain)
        self.exponent = nn.Parameter(exponents.clone(), requires_grad=trained)

    def steps(self) -> tuple[Tensor, None]:
        """(s, None). With g the gradient of s, that of e is gain * g / (s ln 2).

        So plain gradient descent changes s by the same share of itself as in LSQ.
        """
        exponent = rounded(clamped(self.exponent.to(torch.float32), *EXPONENTS))
        scale = (exponent.detach().to(torch.int32) + 127 << 23).view(torch.float32)
        slope = self.gain / (scale.clamp(min=SMALLEST_UNIT) * math.log(2))
        return straight_through(scale, exponent * slope), None
