"""Ternary weights with two trained scales (Zhu et al. 2017, Trained Ternary Quantization).

Legend: O output channels (rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.quantization import RepresentationConfig, Ternarize
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.clusters import codebook
from tersor.simulation.fitting import checked, kept_or_all, rows_of, units
from tersor.simulation.straight_through import in_units, significant, straight_through
from tersor.tensors import Codebook

SMALLEST_FACTOR = 1 / 256
"""Scales stay above this share of their first value, and so on their side of zero."""


@dataclass(frozen=True)
class TrainedTernary(Training):
    """`Ternarize`: w = p where W > d, -n where W < -d, else 0, with p and n of a channel or tensor trained.

    threshold: d as a share of the largest |W| that is kept, computed at each use (equation 9).
    rate:      in shares of the first p and n, which are the means of the |W| beyond d.

    The gradients of p and n are the sums of those of their weights (equation 7). That of W is the gradient of w, times
    p or n in units of their first values beyond d (equation 8, whose W are normalised). Two scales are a codebook of
    three values: the file holds a `Codebook`. Scales have 8 significant bits, rounded straight through.
    """

    name: ClassVar[str] = "trained_ternary"

    threshold: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("threshold", 0.0, 1.0)

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> TwoScales:
        """See the base class."""
        config = checked(self, representation, Ternarize, weight, mask)
        return TwoScales(config.granularity, self.threshold, weight.detach(), kept_or_all(weight, mask))


class TwoScales(Simulation):
    """positive, negative: p and n in units of their first values, float32 (O, 1) or (1, 1)."""

    kept: Tensor
    positive_unit: Tensor
    negative_unit: Tensor

    def __init__(self, granularity: str, threshold: float, weight: Tensor, kept: Tensor) -> None:
        super().__init__()
        self.granularity = granularity
        self.threshold = threshold
        self.register_buffer("kept", kept)
        rows = rows_of(weight, granularity)
        inside = kept.reshape(rows.shape)
        above, below = self._beyond(rows)
        self.register_buffer("positive_unit", _mean(rows, above & inside))
        self.register_buffer("negative_unit", _mean(-rows, below & inside))
        self.positive = nn.Parameter(torch.ones_like(self.positive_unit))
        self.negative = nn.Parameter(torch.ones_like(self.negative_unit))

    def scales(self) -> tuple[Tensor, Tensor]:
        """(p, n), float32 (O, 1) or (1, 1), with gradients."""
        return (
            significant(in_units(self.positive, self.positive_unit), 8),
            significant(in_units(self.negative, self.negative_unit), 8),
        )

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class."""
        rows = rows_of(weight, self.granularity)
        above, below = self._beyond(rows.detach())
        positive, negative = self.scales()
        values = torch.where(above, positive, torch.where(below, -negative, torch.zeros_like(rows)))
        slopes = torch.where(above, positive / self.positive_unit, torch.ones_like(rows))
        slopes = torch.where(below, negative / self.negative_unit, slopes).detach()
        relaxed = straight_through(torch.zeros_like(rows), rows * slopes)
        return (values + relaxed).reshape(weight.shape).to(weight.dtype)

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Keeps the scales positive, and takes the mask over."""
        self.positive.clamp_(min=SMALLEST_FACTOR)
        self.negative.clamp_(min=SMALLEST_FACTOR)
        if mask is not None:
            self.kept.copy_(mask)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Codebook:
        """See the base class. Codes 0, 1 and 2 are -n, 0 and p."""
        above, below = self._beyond(rows_of(weight, self.granularity))
        codes = (1 + above.to(torch.uint8) - below.to(torch.uint8)).reshape(weight.shape)
        positive, negative = self.scales()
        table = torch.cat([-negative, torch.zeros_like(positive), positive], 1)
        return codebook(weight, mask, 2, codes, table)

    def _beyond(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(W > d, W < -d) of rows that share scales, bool alike."""
        largest = (rows.abs() * self.kept.reshape(rows.shape)).amax(1, keepdim=True)
        bound = self.threshold * largest
        return rows > bound, rows < -bound


def _mean(rows: Tensor, chosen: Tensor) -> Tensor:
    """Units of the scales: the means of the chosen values of each row, (O, 1); those of nothing are the row's size."""
    counts = chosen.sum(1, keepdim=True)
    means = (rows * chosen).sum(1, keepdim=True) / counts.clamp(min=1)
    return units(torch.where(counts > 0, means, rows.abs().mean(1, keepdim=True)))
