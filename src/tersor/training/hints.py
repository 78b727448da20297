"""Features that follow a teacher's (Romero et al. 2015, FitNets: hints for thin deep nets).

Legend: B samples, C channels of the student, D of the teacher, H x W pixels, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.calibration.objectives import class_dimension
from tersor.errors import MismatchError


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1/2 |u - v|^2 of the teacher's features u and the student's projected ones v (equation 3).

    The mean over samples *and* elements, so that weights need not follow the size of features. Pictures
    (B, D, H, W) may differ in H and W: the larger is averaged down to the smaller. Raises MismatchError for all else.
    """
    student, teacher = at_one_size(student.float(), teacher.float())
    if student.shape != teacher.shape:
        raise MismatchError(
            f"the student's features have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; channels "
            "are matched by a projection, tokens must be the same"
        )
    return (student - teacher).square().mean() / 2


def projection(student: torch.Size, teacher: torch.Size, seed: int = 0) -> nn.Module:
    """A learned linear map from C to D channels, pixel by pixel or token by token: the paper's regressor r.

    student, teacher: shapes of the features: (B, C) and (B, D), (B, T, C) and (B, T, D), or pictures (B, C, H, W) and
        (B, D, H', W'). Weights are drawn from `seed`; the state of torch's generator stays as it was.
    Raises MismatchError where one is a picture and the other is not.
    """
    if len(student) != len(teacher) or not 2 <= len(student) <= 4:
        raise MismatchError(
            f"features of shapes {tuple(student)} (student) and {tuple(teacher)} (teacher) cannot be matched; both "
            "must be (B, C), (B, T, C) or (B, C, H, W)"
        )
    dim = 1 if len(student) == 4 else len(student) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(student) == 4:
            return nn.Conv2d(student[dim], teacher[dim], 1)
        return nn.Linear(student[dim], teacher[dim])


def channels(features: Tensor) -> int:
    """C of (B, C), (B, T, C) or (B, C, H, W)."""
    return features.shape[class_dimension(features)]


def at_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of the smaller one's height and width, by averages; others as they are."""
    if a.dim() != 4 or b.dim() != 4 or a.shape[2:] == b.shape[2:]:
        return a, b
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)
