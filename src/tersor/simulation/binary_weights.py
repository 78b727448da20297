"""Binary weights with scales that follow them (Rastegari et al. 2016, XNOR-Net, section 3.1).

Legend: O output channels (rows), n weights that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.quantization import Binarize, RepresentationConfig
from tersor.quantization.config import owned_mask
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.binary_connect import positive_signs
from tersor.simulation.fitting import checked, kept_or_all, rows_of
from tersor.simulation.straight_through import significant, signs
from tersor.tensors import Binary


@dataclass(frozen=True)
class BinaryWeights(Training):
    """`Binarize`: w = a sign(W), a = mean|W| of the kept weights of a channel or tensor, computed at each use (eq. 6).

    rate: not used: nothing of its own is trained.

    What is stored is clipped to [-1, 1] after each step. Scales have 8 significant bits, rounded straight through.
    """

    name: ClassVar[str] = "binary_weights"

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> ScaledSigns:
        """See the base class."""
        config = checked(self, representation, Binarize, weight, mask)
        return ScaledSigns(config.granularity, kept_or_all(weight, mask))


class ScaledSigns(Simulation):
    """The gradient for W_i is a g_i [|W_i| <= 1] + sign(W_i) / n * sum_j g_j sign(W_j), g that of w.

    This is the chain rule of equation 6 with the straight-through gradient of the sign; the paper's equation leaves out
    that a scale moves all its weights. kept: bool of the weight's shape, the mask of the last step.
    """

    kept: Tensor

    def __init__(self, granularity: str, kept: Tensor) -> None:
        super().__init__()
        self.granularity = granularity
        self.register_buffer("kept", kept)

    def scales(self, weight: Tensor) -> Tensor:
        """a, float32 (O, 1) or (1, 1), with gradients; 0 where nothing is kept."""
        kept = self.kept.reshape(rows_of(self.kept, self.granularity).shape)
        sums = (rows_of(weight, self.granularity).abs() * kept).sum(1, keepdim=True)
        return significant(sums / kept.sum(1, keepdim=True).clamp(min=1), 8)

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class."""
        values = self.scales(weight) * signs(rows_of(weight, self.granularity))
        return values.reshape(weight.shape).to(weight.dtype)

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Clips what is stored, and takes the mask over."""
        weight.clamp_(-1.0, 1.0)
        if mask is not None:
            self.kept.copy_(mask)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Binary:
        """See the base class."""
        scale = self.scales(weight).to("cpu")
        return Binary(weight.shape, weight.dtype, owned_mask(mask), positive_signs(weight), scale)
