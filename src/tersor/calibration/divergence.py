"""How far a network's outputs have moved from those of the network that it stands for.

In the unit of the objectives that calibration takes gradients of (`objectives`), so that to second order the divergence
is the predicted loss, sum_r G_r e_r / 2 (`LayerStatistics.row_weights`, `output_error`).

Legend: B samples, T tokens (or pixels) of a sample, C classes, p and q the two networks' probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.objectives import class_rows, has_classes, main_output
from tersor.calibration.samples import batches, call
from tersor.errors import CalibrationError, UsageError

MEMORY = 1 << 30
"""Bytes of outputs that a reference holds."""

_BLOCK = 1 << 20
"""Logits at a time, which are float64 while they are compared."""


@dataclass(frozen=True)
class Reference:
    """What a network gave for the first batches of some samples.

    outputs: of each batch, float32 on the CPU: logits, or whatever the output is about.
    samples: B of each batch.
    classes: whether outputs are logits of classes.
    """

    outputs: tuple[Tensor, ...]
    samples: tuple[int, ...]
    classes: bool


def reference_outputs(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    classes: bool | None = None,
    limit: int | None = None,
    memory: int = MEMORY,
    seed: int = 0,
) -> Reference:
    """Runs `model`, in evaluation mode, over batches until it has seen `limit` samples or outputs fill `memory` bytes.

    At least one batch is run, whatever its size. The model is not changed.

    samples: as in `collect`; they have to be the same, in the same order, whenever they are iterated over.
    classes: whether outputs are logits; None decides as `default_objective` does.
    seed:    of whatever the model and the iterator of samples draw.
    Raises UsageError if there are no samples, CalibrationError where the model rejects one or its output is NaN or Inf.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be a positive number of samples, got {limit!r}")
    outputs: list[Tensor] = []
    sizes: list[int] = []
    logits = classes

    def visit(index: int, output: Any, size: int) -> bool:
        nonlocal logits
        if logits is None:
            logits = has_classes(output)
        value = main_output(output).float().cpu().clone()
        if bool(torch.isnan(value).any()) or bool((value == math.inf).any()):
            raise CalibrationError(f"batch {index}: the model's output holds NaN or Inf; look at the samples")
        outputs.append(value)
        sizes.append(size)
        room = memory - sum(o.nbytes for o in outputs)
        return room >= value.nbytes and (limit is None or sum(sizes) < limit)

    _visit_outputs(model, samples, seed, visit)
    return Reference(tuple(outputs), tuple(sizes), bool(logits))


def divergence(
    model: nn.Module | Reference,
    student: nn.Module,
    samples: Iterable[Any],
    *,
    limit: int | None = None,
    seed: int = 0,
) -> float:
    """Mean over samples of KL(p || q) = sum p ln(p / q), in nats, *summed* over a sample's tokens; or |y - y'|^2 / 2.

    The first where outputs are logits: (B, C), (B, T, C), pictures (B, C, H, W); p is `model`'s. The second, summed
    over a sample's outputs, for all others.
    model: the network that `student` stands for, or its `reference_outputs` of the same samples.
    limit: as in `reference_outputs`; ignored where `model` is a reference.
    Infinite where the student's outputs are NaN, or it rules out what the model does not.
    Raises as `reference_outputs`; CalibrationError if outputs differ in shape, or there are fewer samples than in the
    reference.
    """
    reference = model if isinstance(model, Reference) else reference_outputs(model, samples, limit=limit, seed=seed)
    losses: list[float] = []

    def visit(index: int, output: Any, size: int) -> bool:
        expected, value = reference.outputs[len(losses)], main_output(output)
        if value.shape != expected.shape:
            raise CalibrationError(
                f"batch {index}: the outputs to compare have shapes {tuple(expected.shape)} and {tuple(value.shape)}; "
                "samples must come in the same order each time"
            )
        expected = expected.to(value.device)
        losses.append(_kl(expected, value) if reference.classes else _half_square(expected, value))
        return len(losses) < len(reference.outputs)

    _visit_outputs(student, samples, seed, visit)
    if len(losses) < len(reference.outputs):
        raise CalibrationError(
            f"there were {len(reference.outputs)} batches for the reference, but {len(losses)} now; give samples that "
            "can be iterated over again"
        )
    return sum(losses) / sum(reference.samples)


def _visit_outputs(model: nn.Module, samples: Iterable[Any], seed: int, visit: Callable[[int, Any, int], bool]) -> None:
    """Calls visit(index, output, B) for one batch after the other, until it returns False."""
    with torch.no_grad(), untouched(model, seed):
        for index, batch, size in batches(samples):
            if not visit(index, call(model, batch, index), size):
                break


def _kl(expected: Tensor, got: Tensor) -> float:
    """Sum of KL(p || q) over all rows of logits."""
    p_rows, q_rows = class_rows(expected), class_rows(got)
    total = 0.0
    step = max(_BLOCK // max(p_rows.shape[1], 1), 1)
    for begin in range(0, p_rows.shape[0], step):
        p = p_rows[begin : begin + step].double().log_softmax(1)
        q = q_rows[begin : begin + step].double().log_softmax(1)
        # A class that p rules out costs nothing, whatever q makes of it.
        terms = torch.where(p > -math.inf, p.exp() * (p - q), torch.zeros_like(p))
        total += float(terms.sum())
    return math.inf if math.isnan(total) else max(total, 0.0)


def _half_square(expected: Tensor, got: Tensor) -> float:
    total = float((expected.double() - got.double()).square().sum()) / 2
    return math.inf if math.isnan(total) else total
