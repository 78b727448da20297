"""How far a student's output is from its teacher's, without labels.

Legend: B samples, T tokens, C classes, z logits, t temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tersor.calibration.objectives import class_dimension, has_classes, main_output
from tersor.errors import CalibrationError

Distance = Callable[[Any, Any], Tensor]
"""(student's output, teacher's output) -> a scalar with a gradient by the first: the mean over samples."""


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """t^2 KL(softmax(z_teacher / t) | softmax(z_student / t)), in nats a prediction (Hinton et al. 2015, section 2).

    The factor t^2 keeps the gradient's size whatever the temperature. Logits of one shape; classes are the last
    dimension of (B, C) and (B, T, C), and dimension 1 of pictures (B, C, H, W), as in `calibration.objectives`.
    """
    _check_shapes(student, teacher)
    dim = class_dimension(student)
    p = F.log_softmax(teacher.float() / temperature, dim)
    q = F.log_softmax(student.float() / temperature, dim)
    return (p.exp() * (p - q)).sum(dim).mean() * temperature**2


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """|y_student - y_teacher|^2 / |y_teacher - mean|^2, the mean over B: for outputs that are no logits.

    A number without unit: 1 is a student that always gives the teacher's mean.
    """
    _check_shapes(student, teacher)
    y, target = student.float(), teacher.float()
    spread = (target - target.mean(0)).square().mean() if target.shape[:1].numel() > 1 else target.square().mean()
    return (y - target).square().mean() / spread.clamp(min=1e-12)


def default_distance(temperature: float, classes: bool | None = None) -> Distance:
    """`soft_targets` of logits of classes, `relative_error` of other outputs.

    classes: which of them outputs are; None for logits where they look like them (`calibration.default_objective`), as
             embeddings do, too.
    """

    def distance(student: Any, teacher: Any) -> Tensor:
        y, target = main_output(student), main_output(teacher)
        if has_classes(target) if classes is None else classes:
            return soft_targets(y, target, temperature)
        return relative_error(y, target)

    return distance


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise CalibrationError(
            f"the student's output has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; they must "
            "speak of the same samples and classes"
        )
