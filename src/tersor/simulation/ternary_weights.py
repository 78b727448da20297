"""Ternary weights with thresholds and scales that follow them (Li et al. 2016, Ternary Weight Networks).

Legend: O output channels (rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.quantization import RepresentationConfig, Ternarize
from tersor.quantization.config import owned_mask
from tersor.quantization.ternary import TWN_FACTOR, optimal_threshold
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.fitting import checked, kept_or_all, rows_of
from tersor.simulation.straight_through import significant, straight_through
from tersor.tensors import Ternary


@dataclass(frozen=True)
class TernaryWeights(Training):
    """`Ternarize`: w = a sign(W) where |W| > d, else 0, with d and a of a channel or tensor computed at each use.

    d = f mean|W|, a the mean of the |W| above d, both of the kept weights (equations 5 and 6). f = 0.7 by the rule
    "twn"; by the rule "optimal" it is what gives the least squared error when the simulation begins, and stays.

    rate: not used: nothing of its own is trained.

    The gradient of w goes to W as it is (section 2.4). Scales have 8 significant bits.
    """

    name: ClassVar[str] = "ternary_weights"

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> FollowedThresholds:
        """See the base class."""
        config = checked(self, representation, Ternarize, weight, mask)
        kept = kept_or_all(weight, mask)
        rows, kept_rows = rows_of(weight.detach(), config.granularity), rows_of(kept, config.granularity) > 0
        factors = torch.full((rows.shape[0], 1), TWN_FACTOR, device=weight.device)
        if config.rule == "optimal":
            for row in range(rows.shape[0]):
                factors[row] = optimal_factor(rows[row], kept_rows[row])
        return FollowedThresholds(config.granularity, kept, factors)


def optimal_factor(row: Tensor, kept: Tensor) -> float:
    """d / mean|W| for the threshold d of least squared error, half way to the next smaller weight: float32 (N,)."""
    values, chosen = row.to("cpu"), kept.to("cpu")
    magnitudes = values[chosen].abs()
    found = optimal_threshold(values.numpy(), chosen.numpy())
    mean = float(magnitudes.mean()) if found.size else 0.0
    if mean == 0.0:
        return TWN_FACTOR
    smaller = magnitudes[magnitudes < float(found.threshold)]
    below = float(smaller.max()) if smaller.numel() else 0.0
    return (float(found.threshold) + below) / 2 / mean


class FollowedThresholds(Simulation):
    """factors: f, float32 (O, 1) or (1, 1). kept: bool of the weight's shape, the mask of the last step."""

    kept: Tensor
    factors: Tensor

    def __init__(self, granularity: str, kept: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.granularity = granularity
        self.register_buffer("kept", kept)
        self.register_buffer("factors", factors)

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class."""
        codes, scale = self._codes(weight.detach())
        values = straight_through((codes * scale).reshape(weight.shape), weight.to(torch.float32))
        return values.to(weight.dtype)

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Takes the mask over."""
        if mask is not None:
            self.kept.copy_(mask)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Ternary:
        """See the base class."""
        codes, scale = self._codes(weight)
        stored = codes.to("cpu", torch.int8).reshape(weight.shape)
        return Ternary(weight.shape, weight.dtype, owned_mask(mask), stored, scale.to("cpu"))

    def _codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(-1, 0 or 1, float32 (O, N) or (1, O * N); scales, float32 (O, 1) or (1, 1), 1 where all codes are 0)."""
        rows = rows_of(weight, self.granularity)
        kept = self.kept.reshape(rows.shape)
        magnitudes = rows.abs() * kept
        threshold = self.factors * magnitudes.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        above = magnitudes > threshold
        counts = above.sum(1, keepdim=True)
        scale = significant((magnitudes * above).sum(1, keepdim=True) / counts.clamp(min=1), 8)
        codes = rows.sign() * (rows.abs() > threshold)
        return codes, torch.where(counts > 0, scale, torch.ones_like(scale))
