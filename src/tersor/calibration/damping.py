"""The factor of the inverse of H that error feedback needs, for any H.

Legend: G groups, N inputs of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.calibration.statistics import LayerStatistics

DAMPING = 0.01
"""Of the mean of the diagonal of H, as in GPTQ (Frantar et al. 2023, section 3)."""


@dataclass(frozen=True)
class Factor:
    """(H + a I)^-1 = U^T U with U upper triangular; H is what one sample adds on average.

    With d_j = u_j - q_j, the error of column j after feedback, (w - q) (H + a I) (w - q)^T = sum_j (d_j / U_jj)^2:
    columns cost independently of each other.

    feedback: float64 (G, N, N), V_jk = U_jk / U_jj, what an error of column j takes away from column k > j; ones on the
              diagonal. None where H is diagonal: there is nothing to feed back.
    scale:    float64 (G, N), U_jj > 0.
    """

    feedback: Tensor | None
    scale: Tensor

    def precision(self) -> Tensor:
        """float64 (G, N): the cost 1 / U_jj^2 of a squared error of each column."""
        return self.scale.square().reciprocal()

    def mean_scale(self) -> Tensor:
        """float64 (G,): the geometric mean of U_jj."""
        return self.scale.log().mean(1).exp()


def factorize(statistics: LayerStatistics, damping: float = DAMPING) -> Factor:
    """The factor of a layer's H with a = `damping` times the mean of its diagonal.

    Never fails: where H + a I is not positive definite in floating point, a grows tenfold until it is. An H of zeros
    is taken for the identity. Inputs that were always zero neither take nor give feedback.
    """
    moment = statistics.moment.double() / max(statistics.samples, 1)
    if statistics.layout.diagonal:
        mean = moment.mean(1, keepdim=True)
        floor = torch.where(mean > 0, mean * max(damping, 1e-12), torch.ones_like(mean))
        return Factor(None, (moment + floor).rsqrt())
    feedback = torch.empty_like(moment)
    scale = torch.empty(moment.shape[:2], dtype=torch.float64)
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)
    pending = torch.arange(moment.shape[0])
    ridge = mean * damping
    while pending.numel():
        upper, failed = _upper_cholesky(moment[pending], ridge[pending], mean[pending])
        done = pending[~failed]
        feedback[done], scale[done] = _inverse(upper[~failed])
        pending = pending[failed]
        ridge[pending] = torch.maximum(ridge[pending] * 10, mean[pending] * 1e-12)
    return Factor(feedback, scale)


def _upper_cholesky(moment: Tensor, ridge: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """R (G, N, N), upper, with H + a I = R R^T, and bool (G,), where there is none."""
    identity = torch.eye(moment.shape[1], dtype=moment.dtype)
    dead = (mean <= 0)[:, None, None]
    damped = torch.where(dead, identity, moment + ridge[:, None, None] * identity)
    # Cholesky's lower factor of the matrix read backwards is the upper one, read backwards.
    lower, info = torch.linalg.cholesky_ex(damped.flip(1, 2))
    upper = lower.flip(1, 2)
    smallest = upper.diagonal(dim1=1, dim2=2).square().amin(1)
    largest = damped.diagonal(dim1=1, dim2=2).amax(1)
    failed = (info != 0) | ~(smallest > largest * (moment.shape[1] * torch.finfo(torch.float64).eps))
    return upper, failed


def _inverse(upper: Tensor) -> tuple[Tensor, Tensor]:
    """V and the diagonal of U = R^-1."""
    identity = torch.eye(upper.shape[1], dtype=upper.dtype).expand_as(upper)
    inverse = torch.linalg.solve_triangular(upper, identity, upper=True)
    diagonal = inverse.diagonal(dim1=1, dim2=2)
    return inverse / diagonal[:, :, None], diagonal.clone()
