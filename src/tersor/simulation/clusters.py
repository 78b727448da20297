"""Trained centroids (Han et al. 2016, Deep Compression, section 3.3).

Legend: O output channels (rows), N weights a row, T codebooks, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.layers import matrix_shape
from tersor.quantization import Palettize, RepresentationConfig
from tersor.quantization.config import owned_mask
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.fitting import checked, kept_or_all, units
from tersor.simulation.straight_through import in_units, significant
from tersor.tensors import Codebook


@dataclass(frozen=True)
class TrainedClusters(Training):
    """`Palettize` whose centroids are trained: the gradients of the weights that share one are summed.

    refresh: every so many steps each weight goes to the centroid that is nearest to what is stored of it; 0 leaves all
             where they are (the paper's way).
    rate:    in shares of the weights' root mean square.

    The first centroids are those of `Palettize.fit`: its `init` says from where. What is stored goes on learning as
    if it were the weight, straight through, and matters when weights are assigned again. Centroids keep 8 significant
    bits up to 4 bits a weight, 16 above, rounded straight through.
    """

    name: ClassVar[str] = "clusters"

    refresh: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_integer("refresh", 0, 2**62)

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> Clusters:
        """See the base class. UsageError for more centroids than kept weights, too."""
        config = checked(self, representation, Palettize, weight, mask)
        fitted = fitted_clusters(self.name, config, weight, mask)
        return Clusters(fitted.to_device(weight.device), self.refresh)


@dataclass(frozen=True)
class Fitted:
    """A fitted codebook. codes: uint8 of the weight's shape. table: float32 (T, K). size: root mean square, (1, 1)."""

    bits: int
    codes: Tensor
    table: Tensor
    size: Tensor

    def to_device(self, device: torch.device) -> Fitted:
        """The same there."""
        return Fitted(self.bits, self.codes.to(device), self.table.to(device), self.size.to(device))


def fitted_clusters(name: str, config: Palettize, weight: Tensor, mask: Tensor | None) -> Fitted:
    """What `config` gives for the kept weights. name: of the training, for the UsageError of too few weights."""
    kept = int(kept_or_all(weight, mask).sum())
    book = config.fit(weight, mask)
    centroids = book.codebook.shape[0] << config.bits
    if kept < centroids:
        raise UsageError(
            f"{name}: {centroids} centroids for {kept} weights that are kept, of the shape {tuple(weight.shape)}; "
            "use fewer bits or runs, or leave this one out"
        )
    values = weight.detach().to("cpu", torch.float32)
    total = (values if mask is None else values[mask.to("cpu")]).square().sum()
    return Fitted(config.bits, book.codes, book.codebook, units((total / kept).sqrt().reshape(1, 1)))


class Clusters(Simulation):
    """w = the centroid that the weight's code points to. Pruned weights have codes, too, that nobody reads."""

    codes: Tensor
    unit: Tensor

    def __init__(self, fitted: Fitted, refresh: int) -> None:
        super().__init__()
        self.bits = fitted.bits
        self.refresh = refresh
        self.register_buffer("codes", fitted.codes)
        self.register_buffer("unit", fitted.size)
        self.centroids = nn.Parameter(fitted.table / fitted.size)

    def table(self) -> Tensor:
        """The centroids, float32 (T, K), with gradients; in no order."""
        return significant(in_units(self.centroids, self.unit), 8 if self.bits <= 4 else 16)

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class. The gradient of a centroid is the sum of those of its weights (equation 3)."""
        stored = weight.to(torch.float32)
        return (looked_up(self.table(), self.codes) + (stored - stored.detach())).to(weight.dtype)

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Assigns the weights again where it is time to."""
        if self.refresh and clock.step > 0 and clock.step % self.refresh == 0:
            self.codes.copy_(nearest(weight, self.table()))

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Codebook:
        """See the base class."""
        return codebook(weight, mask, self.bits, self.codes, self.table())


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """The centroids (T, K) that `codes` (uint8, any shape) point to, of the codes' shape, with gradients."""
    return table.reshape(-1).index_select(0, flat_places(codes, table).reshape(-1)).reshape(codes.shape)


def nearest(weight: Tensor, table: Tensor) -> Tensor:
    """uint8 of the weight's shape: the nearest centroid of each weight, the smaller of two that are equally near."""
    rows, length = matrix_shape(weight.shape)
    values = weight.detach().to(torch.float32).reshape(rows, length)
    codes = torch.empty(rows, length, dtype=torch.uint8, device=weight.device)
    run = -(-rows // table.shape[0])
    for number, order in enumerate(table.argsort(dim=1, stable=True)):
        centroids = table[number].detach()[order]
        part = slice(number * run, (number + 1) * run)
        ranks = torch.bucketize(values[part].contiguous(), (centroids[1:] + centroids[:-1]) / 2)
        codes[part] = order.to(torch.uint8)[ranks]
    return codes.reshape(weight.shape)


def codebook(weight: Tensor, mask: Tensor | None, bits: int, codes: Tensor, table: Tensor) -> Codebook:
    """The `Codebook` of centroids (T, K) in any order and the codes that point to them."""
    order = table.argsort(dim=1, stable=True)
    ranks = order.argsort(dim=1).to(torch.uint8).reshape(-1)
    sorted_codes = ranks.index_select(0, flat_places(codes, table).reshape(-1)).reshape(codes.shape)
    ascending = table.gather(1, order).to("cpu", torch.float32)
    return Codebook(weight.shape, weight.dtype, owned_mask(mask), bits, sorted_codes.to("cpu"), ascending)


def flat_places(codes: Tensor, table: Tensor) -> Tensor:
    """Where the codes point to in the flat table, int32 (O, N): runs of ceil(O / T) rows share a codebook."""
    rows, length = matrix_shape(codes.shape)
    places = codes.to(torch.int32).reshape(rows, length)
    if table.shape[0] == 1:
        return places
    run = -(-rows // table.shape[0])
    first = torch.arange(rows, dtype=torch.int32, device=codes.device) // run * table.shape[1]
    return places + first[:, None]
