"""A teacher in a session: one function from what a step computed to the loss that is trained with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tersor.calibration.samples import call
from tersor.errors import UsageError
from tersor.training import default_distance
from tersor.training.distill import Distance


class Distillation(Protocol):
    """Called by `Session.loss`. A module's parameters are trained with the network (at its `rate`, if it has one, else
    at the optimizer's) and saved with it; a `close()` is called when the session ends."""

    def __call__(self, inputs: Any, outputs: Any, task_loss: Tensor | None = None, **more: Any) -> Tensor:
        """The loss to train with, a scalar.

        inputs, outputs: the student's, as the loop gave them. task_loss: of the labels; None where there are none.
        more: whatever else the loop gave `Session.loss`, such as answers of teachers that are known already.
        """


class FromTeacher:
    """task_loss + distance(student's outputs, teacher's outputs). See `Distillation`.

    The teacher runs in evaluation mode, without gradients, and is left as it was.
    """

    def __init__(self, teacher: nn.Module, distance: Distance | None = None) -> None:
        self.teacher = teacher
        self.distance = distance or default_distance(1.0)

    def __call__(self, inputs: Any, outputs: Any, task_loss: Tensor | None = None, **more: Any) -> Tensor:
        """See `Distillation`. CalibrationError where the teacher rejects the inputs, or shapes of outputs differ."""
        if inputs is None or outputs is None:
            raise UsageError("a teacher needs session.loss(task_loss, inputs=..., outputs=...) of the student")
        with evaluating(self.teacher), torch.no_grad():
            target = call(self.teacher, inputs, 0)
        distance = self.distance(outputs, target)
        return distance if task_loss is None else task_loss + distance


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: evaluation mode; after: each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
