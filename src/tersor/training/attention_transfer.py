"""Where a network looks, as its teacher does (Zagoruyko and Komodakis 2017, Paying More Attention to Attention).

Legend: B samples, C channels, P = H x W pixels or T tokens.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tersor.errors import MismatchError
from tersor.training.hints import at_one_size


def attention_map(features: Tensor) -> Tensor:
    """Q = sum over c of A_c^2 (section 3.1, p = 2), divided by its length: float32 (B, P).

    features: pictures (B, C, H, W), or tokens (B, T, C). Raises MismatchError for (B, C), which has no places.
    """
    if features.dim() not in (3, 4):
        raise MismatchError(
            f"features of shape {tuple(features.shape)} have no map of attention; take a module whose output is "
            "(B, C, H, W) or (B, T, C)"
        )
    energy = features.float().square().sum(1 if features.dim() == 4 else 2)
    return F.normalize(energy.flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1/2 |Q_s / |Q_s| - Q_t / |Q_t||^2, the mean over B (equation 2, squared as in the authors' code).

    That is 1 - cos(Q_s, Q_t): from 0, where both look at the same places, to 1. Numbers of channels may differ, and
    pictures' sizes, too: the larger is averaged down. Raises MismatchError for maps of different kinds.
    """
    student, teacher = at_one_size(student.float(), teacher.float())
    a, b = attention_map(student), attention_map(teacher)
    if a.shape != b.shape or student.dim() != teacher.dim():
        raise MismatchError(
            f"the student's features of shape {tuple(student.shape)} and the teacher's of {tuple(teacher.shape)} are "
            "not maps of the same places"
        )
    return (a - b).square().sum(1).mean() / 2
