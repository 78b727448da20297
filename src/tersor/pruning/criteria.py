"""How much single weights are worth: each criterion is a pure function to scores, the higher the more worth keeping.

Legend: w weights, g gradients of a loss by them, x the inputs that they multiply, H = E[sum_p x x^T] over a sample's
positions p.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tersor.pruning.registry import Criterion, Evidence, by_name, find


@dataclass(frozen=True)
class WeightEvidence(Evidence):
    """What is known of a weight; all of its shape (or of one that broadcasts to it), on one device.

    weight:          any float dtype.
    gradient:        float, E[g], the mean of the batches' gradients.
    taylor:          float, E[(w g)^2] over batches.
    moment:          float, E[x^2] summed over a sample's positions: for each weight the moment of its input.
    inverse:         float above 0, [F^-1]_jj of each weight's input j, F the damped H times what its row's errors cost;
                     infinite where they cost nothing.
    seed:            of the control.
    """

    weight: Tensor
    gradient: Tensor | None = field(default=None, metadata={"need": "gradients"})
    taylor: Tensor | None = field(default=None, metadata={"need": "gradients"})
    moment: Tensor | None = field(default=None, metadata={"need": "inputs"})
    inverse: Tensor | None = field(default=None, metadata={"need": "inputs"})
    seed: int = 0


def magnitude_l1(weight: Tensor) -> Tensor:
    """|w| (Han et al. 2015, Learning both Weights and Connections, section 3.1): float32 of the weight's shape."""
    return weight.float().abs()


def magnitude_l2(weight: Tensor) -> Tensor:
    """w^2, whose sum over a block is its squared L2 norm; single weights rank as by `magnitude_l1`.

    Float64, as float32 squares vanish below 1e-19 and overflow above 1e19.
    """
    return weight.double().square()


def random_scores(weight: Tensor, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), float32 of the weight's shape on its device: the control that every criterion must beat.

    Equal shapes get equal scores from equal seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def wanda(weight: Tensor, moment: Tensor) -> Tensor:
    """|w_ij| |x_j| with |x_j| the L2 norm of input j over all samples (Sun et al. 2024, Wanda, equation 1).

    moment: E[x_j^2], broadcast to the weight; the norm's factor, the root of the number of samples, is left out.
    Float64. The paper compares the weights of a row with each other (`scope="channel"`).
    """
    return weight.double().abs() * moment.double().sqrt()


def taylor_squared(taylor: Tensor) -> Tensor:
    """E[(w g)^2] over batches (Molchanov et al. 2019, Importance Estimation, section 3.1: the first-order expansion).

    With the label-free loss of calibration (`fisher_projection`) it is w^2 times the diagonal of the Fisher matrix,
    twice the expected KL divergence to second order (Theis et al. 2018, Fisher pruning).
    """
    return taylor.double()


def first_order(weight: Tensor, gradient: Tensor) -> Tensor:
    """|w E[g]| (Molchanov et al. 2017, equation 7; Lee et al. 2019, SNIP): float64.

    For a loss with labels. The gradients of the label-free loss are zero on average: take `taylor_squared` there.
    """
    return (weight.double() * gradient.double()).abs()


def obs_saliency(weight: Tensor, inverse: Tensor) -> Tensor:
    """w^2 / (2 [F^-1]_jj): what removing it costs when the rest of the row makes it good, float64.

    Hassibi and Stork 1993, equation 5.
    """
    return weight.double().square() / (2 * inverse.double())


WEIGHT_CRITERIA: dict[str, Criterion[WeightEvidence]] = by_name(
    Criterion("l1", ("weights",), magnitude_l1, ("weight",), "Han et al. 2015"),
    Criterion("l2", ("weights",), magnitude_l2, ("weight",), "Han et al. 2015"),
    Criterion("random", ("weights",), random_scores, ("weight", "seed"), "the control"),
    Criterion("wanda", ("inputs",), wanda, ("weight", "moment"), "Sun et al. 2024"),
    Criterion("taylor", ("gradients",), taylor_squared, ("taylor",), "Molchanov et al. 2019"),
    Criterion("first_order", ("gradients",), first_order, ("weight", "gradient"), "Lee et al. 2019"),
    Criterion("obs", ("inputs",), obs_saliency, ("weight", "inverse"), "Hassibi and Stork 1993"),
)
"""By name."""


def weight_criterion(name: object) -> Criterion[WeightEvidence]:
    """The criterion of this name. UsageError that lists all, with what they need, if there is none."""
    return find(name, WEIGHT_CRITERIA, "weights")
