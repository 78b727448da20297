"""What the simulations of weights need when they are fitted: checks, and who shares a step.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.layers import matrix_shape
from tersor.matrices import float_matrix, mask_matrix
from tersor.quantization import RepresentationConfig
from tersor.simulation.base import Training

R = TypeVar("R", bound=RepresentationConfig)

SMALLEST_UNIT = 2.0**-100
"""Parameters are counted in units of at least this magnitude, so that quotients by them stay finite."""


def checked(
    training: Training, representation: RepresentationConfig, kind: type[R], weight: Tensor, mask: Tensor | None
) -> R:
    """`representation`, if it is one that `training` is for and `weight` can be trained.

    UsageError for another representation or an empty weight; UnsupportedTypeError and NonFiniteError as
    `matrices.float_matrix`; MismatchError for a mask that does not fit the weight.
    """
    if not isinstance(representation, kind):
        raise UsageError(
            f"{training.name}: it trains the representation {kind.name!r}, got {representation.name!r}; "
            "give this layer another kind of training"
        )
    if weight.numel() == 0:
        raise UsageError(f"{training.name}: the weight of shape {tuple(weight.shape)} is empty; leave it untrained")
    float_matrix(weight)
    mask_matrix(mask, weight)
    return representation


def kept_or_all(weight: Tensor, mask: Tensor | None) -> Tensor:
    """`mask` (of the weight's shape) as a copy beside the weight, True everywhere for None."""
    if mask is None:
        return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    return mask.detach().to(weight.device, copy=True)


def units(values: Tensor) -> Tensor:
    """Units of parameters whose first values are `values`: themselves, away from zero. float32."""
    sizes = values.to(torch.float32)
    return torch.where(sizes.abs() < SMALLEST_UNIT, torch.full_like(sizes, SMALLEST_UNIT), sizes)


def spread(steps: Tensor, group_size: int, length: int) -> Tensor:
    """Entries (O, G) or (1, 1) for the weights of an (O, N) matrix, N = `length`: a shape that broadcasts to it.

    group_size: as in `tensors.Uniform`.
    """
    if steps.shape[1] == 1:
        return steps
    return steps.repeat_interleave(group_size, 1)[:, :length]


def sums_of_groups(values: Tensor, group_size: int) -> Tensor:
    """Sums over the weights that share a step: (O, N) -> (O, G), (1, 1) for group_size 0."""
    if group_size == 0:
        return values.sum().reshape(1, 1)
    groups = torch.arange(values.shape[1], device=values.device) // group_size
    sums = torch.zeros(values.shape[0], int(groups[-1]) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add_(1, groups, values)


def rows_of(weight: Tensor, granularity: str) -> Tensor:
    """The weight as a float32 matrix, one row for all that shares a scale: (O, N) by "channel", else (1, O * N)."""
    rows = matrix_shape(weight.shape)[0] if granularity == "channel" else 1
    return weight.to(torch.float32).reshape(rows, -1)
