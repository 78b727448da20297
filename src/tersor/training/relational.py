"""Relations between samples, as a teacher sees them (Park et al. 2019, Relational Knowledge Distillation).

Student and teacher may have features of any, different, shapes: only distances and angles are compared.

Legend: B samples, D numbers of a sample's features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import MismatchError


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between |t_i - t_j| / mu of both networks (equations 4 to 6), the mean over pairs i != j.

    mu is the mean distance of the batch's pairs. Features (B, ...) are flattened; a batch of one has no pairs, and no
    loss. Raises MismatchError unless B is the same.
    """
    s, t = _flat(student, teacher)
    if len(s) < 2:
        return s.sum() * 0
    return F.smooth_l1_loss(_distances(s), _distances(t))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles at t_j between t_i and t_k (equations 7 and 8).

    The mean over triples of different samples; batches of fewer than three have none, and no loss. Memory is that of
    B^2 D numbers. Raises MismatchError unless B is the same.
    """
    s, t = _flat(student, teacher)
    b = len(s)
    if b < 3:
        return s.sum() * 0
    # Triples that name a sample twice have the same cosine, 0 or 1, in both networks: they add nothing to the sum.
    return F.smooth_l1_loss(_cosines(s), _cosines(t), reduction="sum") / (b * (b - 1) * (b - 2))


def _distances(x: Tensor) -> Tensor:
    """(B (B - 1) / 2,): distances of the pairs i < j, in units of their mean."""
    distances = torch.pdist(x)
    mean = distances.mean()
    return distances / torch.where(mean > 0, mean, torch.ones_like(mean))


def _cosines(x: Tensor) -> Tensor:
    """(B, B, B): <e_ij, e_kj> at [j, i, k], where e_ij is the direction from sample j to sample i, 0 if they agree."""
    apart = x[None] - x[:, None]
    same = (apart == 0).all(2, keepdim=True)
    length = torch.where(same, torch.ones_like(apart), apart).norm(dim=2, keepdim=True)
    directions = torch.where(same, torch.zeros_like(apart), apart / length)
    return directions @ directions.transpose(1, 2)


def _flat(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.dim() == 0 or teacher.dim() == 0 or len(student) != len(teacher):
        raise MismatchError(
            f"the student's features of shape {tuple(student.shape)} and the teacher's of {tuple(teacher.shape)} are "
            "not of the same samples"
        )
    return student.float().reshape(len(student), -1), teacher.float().reshape(len(teacher), -1)
