"""Several teachers as one (Hinton et al. 2015, section 1): the mean of their predictions, arithmetic or geometric.

Legend: K teachers, z_k logits of teacher k, t temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tersor.calibration.objectives import class_dimension
from tersor.errors import MismatchError, UsageError

Mean = Literal["probabilities", "logits"]


def as_teachers(what: str, teachers: Any) -> tuple[nn.Module, ...]:
    """One network or several as a tuple. UsageError, which begins with `what`, for anything else, or none."""
    if isinstance(teachers, nn.Module):
        return (teachers,)
    if not isinstance(teachers, (list, tuple)):
        raise UsageError(f"{what}: teachers must be an nn.Module or a list of them, got {type(teachers).__name__}")
    for number, teacher in enumerate(teachers):
        if not isinstance(teacher, nn.Module):
            raise UsageError(f"{what}: teacher {number} must be an nn.Module, got {type(teacher).__name__}")
    if not teachers:
        raise UsageError(f"{what}: there are no teachers; give one at least")
    return tuple(teachers)


def ensemble_logits(teachers: Sequence[Tensor], temperature: float = 1.0, mean: Mean = "probabilities") -> Tensor:
    """Logits z, float32, whose softmax(z / t) is the ensemble's prediction at temperature t.

    mean: "probabilities": softmax(z / t) = 1/K sum_k softmax(z_k / t), so that z = t ln(mean); "logits": z is the mean
          of the z_k, which is the geometric mean of the probabilities, renormalised.

    teachers: K >= 1 logits of one shape, classes as in `soft_targets`. Those of one teacher come back as they are, but
    for the dtype. Raises MismatchError where shapes differ.
    """
    stacked = _stacked(teachers)
    if len(teachers) == 1 or mean == "logits":
        return stacked.mean(0)
    log_p = (stacked / temperature).log_softmax(class_dimension(teachers[0]) + 1)
    return temperature * (log_p.logsumexp(0) - math.log(len(teachers)))


def ensemble_values(teachers: Sequence[Tensor]) -> Tensor:
    """The mean, float32, of K >= 1 outputs of one shape that are no logits. Raises as `ensemble_logits`."""
    return _stacked(teachers).mean(0)


def _stacked(teachers: Sequence[Tensor]) -> Tensor:
    for number, output in enumerate(teachers):
        if output.shape != teachers[0].shape:
            raise MismatchError(
                f"ensemble: the output of teacher {number} has shape {tuple(output.shape)}, that of teacher 0 "
                f"{tuple(teachers[0].shape)}"
            )
    return torch.stack([output.float() for output in teachers])
