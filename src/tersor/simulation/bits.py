"""What codes cost in a file: a model of the adaptive coder with a gradient for weights and steps.

The adaptive coder (csrc/coding/weight_contexts.hpp) expects of each code a size by that of its row, its column and its
neighbours. Here these contexts give each position a probability p that its code is not zero; magnitudes above 1 go on
with probability rho. A code q then takes

    -log2(1 - p)                                                if q = 0
    -log2(p) + 1 - log2(1 - rho) - (|q| - 1) log2(rho)          else: not zero, a sign, a magnitude

bits. Between the integers the cost is a straight line (docs/rate-aware.md).

Legend: O rows, I input channels, K kernel positions, N = I K weights a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.layers import Geometry, geometry

_ROW_PRIOR, _COLUMN_PRIOR = 6.0, 8.0
"""Weights that a row's or a column's density is mixed with: those of the coder's own factors (scale_predictor.hpp)."""

_EXPONENT = 0.7
"""Of the odds by neighbours: neighbours are looked at on all sides, so that each pair of them would count twice."""

_NEIGHBOURS = 12

_LEAST, _MOST = 2.0**-14, 0.75
"""Of probabilities. Above three quarters a zero would be about as dear as a one."""


@dataclass(frozen=True)
class Contexts:
    """How a tensor is coded, after some codes of it.

    slope: (shape of the weight) bits that a code of magnitude 1 takes more than 0 does, at least 0; 0 where pruned.
    over:  () bits of each further step of magnitude.
    zeros: () bits of the tensor if all its codes were 0.
    All float32.
    """

    slope: Tensor
    over: Tensor
    zeros: Tensor


class Bits(torch.autograd.Function):
    """Bits of a tensor of weights W on a grid of step s: () = zeros + sum of slope min(|u|, 1) + over max(|u| - 1, 0).

    u = W / s. W: any shape; s: (); slope of W's shape, over and zeros (): of a `Contexts`. The gradient for W is 0
    where W is; that for s is of the magnitudes above 1 alone. Whether a code is 0 its weight decides: weights gather at
    the ends of the straight line, wherever the step is, so that a larger one would save nothing there, and steps would
    rise for ever.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, slope: Tensor, over: Tensor, zeros: Tensor) -> Tensor:
        """See the class."""
        size = (weight / step).abs_()
        small = size.clamp(max=1.0)
        large = size > 1.0
        rate = torch.where(large, over, slope)
        above = (size - small).sum()
        value = zeros + (small * slope).sum() + above * over
        by_step = -over * (above + large.sum()) / step
        ctx.save_for_backward(weight, step, rate, by_step)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        weight, step, rate, by_step = ctx.saved_tensors
        by_weight = rate * (gradients[0] / step) * weight.sign() if ctx.needs_input_grad[0] else None
        return by_weight, gradients[0] * by_step, None, None, None


def fit_contexts(codes: Tensor, mask: Tensor | None = None) -> Contexts:
    """The contexts of a tensor of `codes` (any shape, whole numbers); `mask` (bool, None keeps all): False is no code.

    Pruned positions take no bits: the file stores them as zeros among zeros.
    """
    sizes = codes.detach().float().abs()
    if mask is not None:
        sizes = sizes * mask
    p = _densities(sizes > 0, mask)
    total, ones = sizes.sum(), (sizes > 0).sum()
    rho = (total - ones + 0.5) / (total + 2.0)
    first = 1.0 - torch.log2(1.0 - rho)
    slope = (torch.log2((1.0 - p) / p) + first).clamp_(min=0.0)
    zeros = -torch.log2(1.0 - p)
    if mask is not None:
        slope, zeros = slope * mask, zeros * mask
    return Contexts(slope, -torch.log2(rho), zeros.sum())


def _densities(live: Tensor, mask: Tensor | None) -> Tensor:
    """p of each position, float32 of the shape of `live` (bool: the code is not 0).

    p is row density x column density / density of the tensor, then its odds are multiplied by how much more often codes
    with so many live neighbours were live than expected, to the power 0.7.
    """
    place = geometry(live.shape)
    there = torch.ones_like(live, dtype=torch.float32) if mask is None else mask.float()
    alive = live.float().reshape(place.rows, place.columns, place.kernel)
    there = there.reshape(alive.shape)
    density = (alive.sum() + 0.5) / (there.sum() + 1.0)
    p = _by_row(alive, there, density) * _by_column(alive, there, density) / density
    p = p.clamp(_LEAST, _MOST)
    near = _live_neighbours(alive, place).long()
    seen = alive.new_zeros(_NEIGHBOURS + 1)
    observed = seen.scatter_add(0, near.reshape(-1), alive.reshape(-1))
    expected = seen.scatter_add(0, near.reshape(-1), (p * there).reshape(-1))
    odds = p / (1.0 - p) * ((observed + 1.0) / (expected + 1.0)).pow(_EXPONENT)[near]
    return (odds / (1.0 + odds)).clamp_(_LEAST, _MOST).reshape(live.shape)


def _by_row(alive: Tensor, there: Tensor, density: Tensor) -> Tensor:
    """Densities of rows (O, 1, 1); that of the tensor where there is one row."""
    if alive.shape[0] == 1:
        return density.reshape(1, 1, 1)
    return (alive.sum((1, 2), keepdim=True) + _ROW_PRIOR * density) / (there.sum((1, 2), keepdim=True) + _ROW_PRIOR)


def _by_column(alive: Tensor, there: Tensor, density: Tensor) -> Tensor:
    """Densities of columns (1, I, K), which start from those of their channel and their kernel position."""
    if alive.shape[0] == 1:
        return density.reshape(1, 1, 1)
    prior = density.reshape(1, 1, 1)
    if alive.shape[2] > 1:
        by_channel, by_position = (
            (alive.sum(dims, keepdim=True) + _COLUMN_PRIOR * density) / (there.sum(dims, keepdim=True) + _COLUMN_PRIOR)
            for dims in ((0, 2), (0, 1))
        )
        prior = by_channel * by_position / density
    return (alive.sum(0, keepdim=True) + _COLUMN_PRIOR * prior) / (there.sum(0, keepdim=True) + _COLUMN_PRIOR)


def _live_neighbours(alive: Tensor, place: Geometry) -> Tensor:
    """How many codes around each are not 0: (O, I, K). Eight in the matrix; in kernels also above, below, and the same
    position of the channels beside."""
    padded = F.pad(alive.reshape(place.rows, place.row_length), (1, 1, 1, 1))
    across = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    near = (across[:-2] + across[1:-1] + across[2:] - padded[1:-1, 1:-1]).reshape(alive.shape)
    if place.kernel == 1:
        return near
    padded = F.pad(alive, (0, 0, 1, 1))
    near = near + padded[:, :-2] + padded[:, 2:]
    width = math.isqrt(place.kernel)
    if width * width == place.kernel:
        padded = F.pad(alive, (width, width))
        near = near + padded[..., : place.kernel] + padded[..., 2 * width :]
    return near
