"""The loss that gradients for pruning are taken of: the user's, or one without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.objectives import default_objective
from tersor.calibration.samples import call, described
from tersor.errors import CalibrationError, TersorError, named

Loss = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> a scalar: it calls the model as it likes."""


def unlabelled(batch: Any) -> Any:
    """The first half of a pair (inputs, target), as losses with labels take them; other batches as they are."""
    return batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch


def answer(model: nn.Module, batch: Any, index: int) -> Any:
    """The model's output for a batch of the argument `calibration`. CalibrationError, naming both, if it rejects it."""
    try:
        return call(model, batch, index)
    except TersorError as error:
        raise named("calibration", error) from error


def forward(model: nn.Module, batch: Any, index: int, loss: Loss | None, generator: torch.Generator) -> Tensor:
    """Runs the model on a batch; the scalar to take gradients of: `loss`, or `default_objective` of the output.

    Raises CalibrationError, naming the batch, where model or loss raise, or the loss is no finite scalar.
    """
    value: Any
    if loss is None:
        value = default_objective(answer(model, batch, index), generator)
    else:
        try:
            value = loss(model, batch)
        except TersorError:
            raise
        except Exception as error:
            raise CalibrationError(
                f"calibration: batch {index}, {described(batch)}: the loss raised {type(error).__name__}: {error}; it "
                "is called with (model, batch): give batches with all that it takes, such as (inputs, labels)"
            ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise CalibrationError(f"calibration: batch {index}: the loss must be a scalar tensor, got {value!r}")
    if not bool(torch.isfinite(value)):
        raise CalibrationError(
            f"calibration: batch {index}: the loss is {float(value.detach())}; look at the samples and the model"
        )
    if torch.is_grad_enabled() and not value.requires_grad:
        raise CalibrationError(
            f"calibration: batch {index}: the loss has no gradient: it does not depend on the layers"
        )
    return value
