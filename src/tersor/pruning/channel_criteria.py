"""How much channels are worth: pure functions to one score a unit, the higher the more worth keeping.

Legend: U units (channels), F weights of a unit's row, B samples, m bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.pruning.registry import Criterion, Evidence, by_name, find

BINS = 100
"""Of the histograms that `activation_entropy` is taken of."""


@dataclass(frozen=True)
class UnitEvidence(Evidence):
    """What is known of the units of one layer; float tensors.

    rows:        (U, F), the weights that compute each unit.
    scales:      (U,), gamma of the batch norm behind it.
    weight_gate: (U,), E(sum_f w_f g_f)^2 over batches, g a batch's gradients by the rows.
    pooled:      (B, U), each sample's activations, averaged over its positions.
    idle:        (U,), share of the activations that are not above zero.
    mean:        (U,), E|a|.
    gate:        (U,), E|sum_p a g|: over samples, of the sum over a sample's positions.
    gate_square: (U,), E(sum_p a g)^2.
    seed:        of the control.
    """

    rows: Tensor
    scales: Tensor | None = field(default=None, metadata={"need": "scales"})
    weight_gate: Tensor | None = field(default=None, metadata={"need": "gradients"})
    pooled: Tensor | None = field(default=None, metadata={"need": "activations"})
    idle: Tensor | None = field(default=None, metadata={"need": "activations"})
    mean: Tensor | None = field(default=None, metadata={"need": "activations"})
    gate: Tensor | None = field(default=None, metadata={"need": "gradients"})
    gate_square: Tensor | None = field(default=None, metadata={"need": "gradients"})
    seed: int = 0


def filter_l1(rows: Tensor) -> Tensor:
    """sum |w| of each filter (Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.1): float64 (U,)."""
    return rows.double().abs().sum(1)


def filter_l2(rows: Tensor) -> Tensor:
    """The L2 norm of each filter (He et al. 2018, Soft Filter Pruning, with p = 2): float64 (U,)."""
    return rows.double().norm(dim=1)


def random_units(rows: Tensor, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), float64 (U,): the control. Equal seeds and U give equal scores."""
    return torch.rand(rows.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_norm_scale(scales: Tensor) -> Tensor:
    """|gamma| (Liu et al. 2017, Network Slimming, section 3): float64 (U,)."""
    return scales.double().abs()


def geometric_median(rows: Tensor) -> Tensor:
    """sum_k |f_j - f_k|_2 over all filters k (He et al. 2019, FPGM, section 3): float64 (U,).

    The filter nearest to the geometric median has the least and can be replaced by the others.
    """
    flat = rows.double()
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def activation_entropy(pooled: Tensor, bins: int = BINS) -> Tensor:
    """-sum_i p_i ln p_i of each channel's histogram (Luo and Wu 2017, An Entropy-based Pruning Method).

    pooled: (B, U), global averages of the feature map; its range over the B samples is cut into `bins` equal bins,
            channel by channel. Float64 (U,), in nats; 0 for a channel that never changes.
    Raises UsageError for fewer than one bin, or no samples.
    """
    if bins < 1 or pooled.shape[0] == 0:
        raise UsageError(f"entropy needs at least one bin and one sample, got {bins} and {pooled.shape[0]}")
    values = pooled.double()
    low, high = values.amin(0), values.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    which = ((values - low) / width * bins).long().clamp_(0, bins - 1)
    counts = torch.zeros(bins, values.shape[1], dtype=torch.float64)
    counts.scatter_add_(0, which, torch.ones_like(values))
    share = counts / values.shape[0]
    return -torch.special.xlogy(share, share).sum(0).clamp(max=0)


def active_share(idle: Tensor) -> Tensor:
    """1 - APoZ, APoZ the average share of zeros after the activation (Hu et al. 2016, equation 1): float64 (U,).

    Values below zero count as zeros, so that smooth activations have a share, too.
    """
    return 1 - idle.double()


def mean_activation(mean: Tensor) -> Tensor:
    """E|a| (Molchanov et al. 2017, Pruning CNNs for Resource Efficient Inference, section 2.2): float64 (U,)."""
    return mean.double()


def taylor_activation(gate: Tensor) -> Tensor:
    """E|sum_p a dL/da| (Molchanov et al. 2017, equation 8, up to the number of positions): float64 (U,)."""
    return gate.double()


def fisher_activation(gate_square: Tensor) -> Tensor:
    """E(sum_p a dL/da)^2 / 2 (Theis et al. 2018, Fisher pruning): float64 (U,).

    With the label-free loss of calibration, the expected KL divergence in nats, to second order.
    """
    return gate_square.double() / 2


def taylor_weights(weight_gate: Tensor) -> Tensor:
    """E(sum_f w_f g_f)^2 over batches (Molchanov et al. 2019, section 3.1, the gate of a filter): float64 (U,)."""
    return weight_gate.double()


CHANNEL_CRITERIA: dict[str, Criterion[UnitEvidence]] = by_name(
    Criterion("l1", ("weights",), filter_l1, ("rows",), "Li et al. 2017"),
    Criterion("l2", ("weights",), filter_l2, ("rows",), "He et al. 2018"),
    Criterion("random", ("weights",), random_units, ("rows", "seed"), "the control"),
    Criterion("geometric_median", ("weights",), geometric_median, ("rows",), "He et al. 2019"),
    Criterion("bn_scale", ("scales",), batch_norm_scale, ("scales",), "Liu et al. 2017"),
    Criterion("entropy", ("activations",), activation_entropy, ("pooled",), "Luo and Wu 2017"),
    Criterion("apoz", ("activations",), active_share, ("idle",), "Hu et al. 2016"),
    Criterion("mean_activation", ("activations",), mean_activation, ("mean",), "Molchanov et al. 2017"),
    Criterion("taylor", ("activations", "gradients"), taylor_activation, ("gate",), "Molchanov et al. 2017"),
    Criterion("fisher", ("activations", "gradients"), fisher_activation, ("gate_square",), "Theis et al. 2018"),
    Criterion("taylor_weights", ("gradients",), taylor_weights, ("weight_gate",), "Molchanov et al. 2019"),
)
"""By name."""


def channel_criterion(name: object) -> Criterion[UnitEvidence]:
    """The criterion of this name. UsageError that lists all, with what they need, if there is none."""
    return find(name, CHANNEL_CRITERIA, "channels")
