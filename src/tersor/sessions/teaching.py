"""What a session asks of a teacher, or of whatever else makes the loss: one function of what a step computed."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Teaching(Protocol):
    """Called by `Session.loss`; `tersor.Distillation` is one. A module's parameters are trained with the network (at
    its `rate`, if it has one, else at the optimizer's) and saved with it; a `close()` is called when the session ends.
    """

    def __call__(self, inputs: Any, outputs: Any, task_loss: Tensor | None = None, **more: Any) -> Tensor:
        """The loss to train with, a scalar.

        inputs, outputs: the student's, as the loop gave them. task_loss: of the labels; None where there are none.
        more: whatever else the loop gave `Session.loss`, such as answers of teachers that are known already.
        """
