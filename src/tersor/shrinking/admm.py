"""Masks by ADMM: sparse weights and weights of least error pull each other until they agree.

ALPS (Meng et al. 2024), section 3.1. Blockwise OBS never takes a choice back; this does, for some more products with H.

Legend: G groups, R rows of a group, N weights of a row (`calibration.layout`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tersor.calibration.statistics import LayerStatistics

Project = Callable[[Tensor], Tensor]
"""Scores float64 (G, R, N), none negative -> bool of their shape: the best that a pattern allows."""

_PENALTY = 0.1
"""rho in the beginning, against an H whose diagonal is one."""

_GROWTH = 1.2
"""What rho grows by every `_PATIENCE` steps: with rho the sparse weights settle."""

_PATIENCE = 3


def admm(
    target: Tensor, statistics: LayerStatistics, project: Project, steps: int, damping: float
) -> tuple[Tensor, Tensor]:
    """(mask bool, weights float64), both (G, R, N): D is sparse, and (D - target) (H + a I) (D - target)^T small.

    Of rows by their `row_weights`, a = `damping` times the mean of the diagonal of H. `steps` of

        W = (H target + rho D - V) (H + rho I)^-1,  D = project(W + V / rho),  V += rho (W - D),

    with inputs scaled so that the diagonal of H + a I is one. The weights still have to be polished on their mask.
    """
    moment = statistics.moment.double() / max(statistics.samples, 1)
    ridge = moment.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * damping
    damped = moment + ridge * torch.eye(moment.shape[1], dtype=torch.float64)
    inputs = damped.diagonal(dim1=1, dim2=2).sqrt()
    alive = torch.where(inputs > 0, inputs, torch.ones_like(inputs))
    values, vectors = torch.linalg.eigh(damped / alive[:, :, None] / alive[:, None, :])
    scale = inputs[:, None] * statistics.row_weights().sqrt()[..., None]
    wanted = target * scale
    pull = ((wanted @ vectors) * values[:, None]) @ vectors.transpose(1, 2)
    rho, sparse, dual = _PENALTY, wanted, torch.zeros_like(wanted)
    mask = torch.ones(target.shape, dtype=torch.bool)
    for step in range(1, steps + 1):
        near = (((pull + rho * sparse - dual) @ vectors) / (values + rho)[:, None]) @ vectors.transpose(1, 2)
        moved = near + dual / rho
        mask = project(moved.square())
        sparse = moved * mask
        dual = dual + rho * (near - sparse)
        if step % _PATIENCE == 0:
            rho *= _GROWTH
    return mask, torch.where(scale > 0, sparse / torch.where(scale > 0, scale, torch.ones_like(scale)), target * mask)
