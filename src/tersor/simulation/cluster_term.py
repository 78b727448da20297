"""Training with a term that pulls weights to shared values (after Nowlan and Hinton 1992; Ullrich et al. 2017).

The weights stay real numbers until training ends; by then they lie so near to K values that nothing is lost by taking
those instead. Where the papers learn a mixture of Gaussians, this is its limit of small widths: k-means.

Legend: K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.quantization import Palettize, RepresentationConfig
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.clusters import Fitted, codebook, fitted_clusters, flat_places, looked_up, nearest
from tersor.simulation.fitting import checked, kept_or_all
from tersor.simulation.straight_through import straight_through
from tersor.tensors import Codebook


@dataclass(frozen=True)
class ClusterTerm(Training):
    """`Palettize` by a penalty: strength * p^3 / 2 * sum (W - c(W))^2 over the kept weights.

    c(W) is the nearest centroid and p the share of the training that is over: weights are free at first. In evaluation
    mode the network computes with c(W), and so it does when training is over.

    strength: in the units of a weight decay: plain gradient descent takes rate * strength * p^3 of the distance a step.
    refit:    every so many steps centroids move to the means of their weights (a round of Lloyd's algorithm).
    rate:     not used: nothing of its own is trained.
    """

    name: ClassVar[str] = "cluster_term"

    strength: float = 1.0
    refit: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("strength", 0.0, float("inf"), open_low=True)
        self.check_integer("refit", 1, 2**62)

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> PulledClusters:
        """See the base class. UsageError for more centroids than kept weights, too."""
        config = checked(self, representation, Palettize, weight, mask)
        fitted = fitted_clusters(self.name, config, weight, mask).to_device(weight.device)
        return PulledClusters(fitted, kept_or_all(weight, mask), self.strength, self.refit)


class PulledClusters(Simulation):
    """Leaves the weight as it is while the network trains; its nearest centroid in evaluation mode."""

    table: Tensor
    kept: Tensor

    def __init__(self, fitted: Fitted, kept: Tensor, strength: float, refit: int) -> None:
        super().__init__()
        self.bits = fitted.bits
        self.strength = strength
        self.refit = refit
        self.register_buffer("table", fitted.table)
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class. The gradient of W is that of the result, in both modes."""
        return weight if self.training else straight_through(self._snapped(weight), weight)

    def penalty(self, weight: Tensor, clock: Clock) -> Tensor:
        """See the base class; float32."""
        stored = weight.to(torch.float32)
        away = (stored - looked_up(self.table, nearest(stored, self.table))) * self.kept
        return 0.5 * self.strength * clock.part**3 * away.square().sum()

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Moves the centroids where it is time to, and at the end of the training the weights to theirs."""
        if mask is not None:
            self.kept.copy_(mask)
        if clock.step % self.refit == 0:
            self.table.copy_(means(weight, self.kept, self.table))
        if clock.steps is not None and clock.step >= clock.steps:
            weight.copy_(self._snapped(weight))

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Codebook:
        """See the base class."""
        return codebook(weight, mask, self.bits, nearest(weight, self.table), self.table)

    def _snapped(self, weight: Tensor) -> Tensor:
        """Each weight's nearest centroid, of the weight's shape and dtype; NaN and Inf stay, so that they are found."""
        found = looked_up(self.table, nearest(weight, self.table)).to(weight.dtype)
        return torch.where(torch.isfinite(weight), found, weight)


def means(weight: Tensor, kept: Tensor, table: Tensor) -> Tensor:
    """A round of Lloyd's algorithm: the means of the kept weights that are nearest to each centroid, (T, K) float32.

    Centroids that no weight is nearest to stay. Each of the T runs of rows has its own.
    """
    places = flat_places(nearest(weight, table), table).reshape(-1)[kept.reshape(-1)]
    values = weight.detach().to(torch.float64).reshape(-1)[kept.reshape(-1)]
    sums = torch.bincount(places, values, minlength=table.numel())
    counts = torch.bincount(places, minlength=table.numel())
    found = (sums / counts.clamp(min=1)).to(torch.float32)
    return torch.where(counts > 0, found, table.reshape(-1)).reshape(table.shape)
