"""Recovery without labels: a quantized network learns to give its float original's outputs (Hinton et al. 2015).

What stays in floating point (biases, norms) is trained with the codes fixed. With `codes`, too: layers are quantized
anew one after the other, on their own grids by error feedback, and after each one the layers that are still floats
learn to make its errors good, so that the next ones are rounded in the light of them. With `values`, centroids and what
pruning has left learn as well, under fixed masks and assignments.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.collect import collect
from tersor.calibration.feedback import output_shift
from tersor.calibration.guard import untouched
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import find_targets
from tersor.errors import MismatchError, UsageError
from tersor.tensors import CompressedTensor
from tersor.training.minibatches import held_out
from tersor.training.requantize import requantized, trellis_of
from tersor.training.settings import Recover
from tersor.training.trainer import Descent, Trainer, root_mean_square, surely_smaller
from tersor.training.tying import has_values, tie, untie

Quantize = Callable[[str, Tensor, LayerStatistics], CompressedTensor]
"""(name, weight, statistics of its inputs behind the quantized layers before it) -> the weight, quantized."""


@dataclass(frozen=True)
class Recovered:
    """What a recovery found.

    tensors: the quantized weights by name, those given if no others were better.
    floats:  the other float parameters by name, of the student's shapes and dtypes.
    before:  distance to the teacher on held-out samples at the start.
    after:   the same of what is returned: never larger.
    """

    tensors: dict[str, CompressedTensor]
    floats: dict[str, Tensor]
    before: float
    after: float


def recover(
    model: nn.Module,
    student: nn.Module,
    tensors: Mapping[str, CompressedTensor],
    samples: Iterable[Any],
    options: Recover | None = None,
    *,
    quantize: Quantize | None = None,
    progress: Callable[[str], None] | None = None,
) -> Recovered:
    """Floats, and with `options.codes` codes, with which `student` is nearer to `model` on held-out samples.

    What was found is kept only if it is nearer by more than chance explains (two standard errors of the gain over
    held-out samples), else the start is. Held-out samples that the quantization itself was fitted to flatter the start
    and the result alike.

    model:    the float network; a pass leaves it as it was.
    student:  its weights are what `tensors` dequantize to. Not changed. With `options.codes` it has the modules of
              `model`, else any that give outputs of the same shape.
    tensors:  by name of the student's parameter. Masks and steps stay.
    samples:  as `collect` takes them; all are held in memory. Batch norms keep their running moments.
    quantize: finds new codes; by default `requantized`, which needs scalar grids.
    progress: called with the name of what begins: a weight that is quantized, or an epoch.

    Nothing is random but what `options.seed` sets. Raises UsageError for bad arguments or no samples; MismatchError if
    a tensor is not the student's; CalibrationError where the networks reject a sample, give outputs of different
    shapes, or where the distance is NaN (it names the step).
    """
    _check_types(model, student, tensors, options)
    options = Recover() if options is None else options
    _check(model, student, tensors, same=options.codes)
    train, held = held_out(samples, options.held_out)
    trainer = Trainer(model, options, train, held, progress or (lambda _: None))
    with untouched(model, options.seed):
        start = copy.deepcopy(student)
        first = best = _State(dict(tensors), _floats(start, tensors), trainer.held_distances(start))
        candidates = [_train_floats(trainer, start, first)]
        if options.codes:
            candidates.append(_train_codes(trainer, model, tensors, train, quantize))
        for candidate in candidates:
            if surely_smaller(candidate.distances, best.distances):
                best = candidate
    return Recovered(best.tensors, best.floats, float(first.distances.mean()), float(best.distances.mean()))


@dataclass(frozen=True)
class _State:
    """A network, and how far it is from its teacher on each held-out piece."""

    tensors: dict[str, CompressedTensor]
    floats: dict[str, Tensor]
    distances: Tensor


def _check_types(model: object, student: object, tensors: object, options: object) -> None:
    for name, given in (("model", model), ("student", student)):
        if not isinstance(given, nn.Module):
            raise UsageError(f"recover: {name} must be an nn.Module, got {type(given).__name__}")
    if not isinstance(tensors, Mapping) or not all(isinstance(t, CompressedTensor) for t in tensors.values()):
        raise UsageError("recover: tensors must be compressed tensors by the names of the student's parameters")
    if options is not None and not isinstance(options, Recover):
        raise UsageError(f"recover: options must be Recover(...), got {type(options).__name__}")


def _check(model: nn.Module, student: nn.Module, tensors: Mapping[str, CompressedTensor], same: bool) -> None:
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    if same and shapes != {name: parameter.shape for name, parameter in model.named_parameters()}:
        raise MismatchError("recover: model and student do not have the same parameters, as new codes need")
    for name, tensor in tensors.items():
        if shapes.get(name) != tensor.shape:
            have = f"has shape {tuple(shapes[name])}" if name in shapes else "is no parameter"
            raise MismatchError(f"recover: {name} {have} of the student, got a tensor of shape {tuple(tensor.shape)}")


def _floats(student: nn.Module, tensors: Mapping[str, CompressedTensor]) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in student.named_parameters()
        if name not in tensors and parameter.is_floating_point()
    }


def _float_rates(student: nn.Module, tensors: Mapping[str, CompressedTensor], options: Recover) -> dict[str, float]:
    return {name: options.lr * root_mean_square(values) for name, values in _floats(student, tensors).items()}


def _train_floats(trainer: Trainer, student: nn.Module, best: _State) -> _State:
    """`best`, or something nearer: floats of `student` (changed) after some epoch, the codes those of `best`.

    With `values`, what its tensors share or keep has learned, too.
    """
    options = trainer.options
    learned = {name: t for name, t in best.tensors.items() if options.values and has_values(t)}
    rates = _float_rates(student, best.tensors, options)
    rates |= {name: options.weight_lr * root_mean_square(t.dequantize()) for name, t in learned.items()}
    descent = Descent(trainer, student, rates)
    tie(student, learned)
    steps, since = trainer.steps_an_epoch(), 0
    for epoch in range(options.epochs):
        trainer.progress(f"epoch {epoch + 1} of {options.epochs}")
        for step in range(steps):
            descent.step(_cosine((epoch + step / steps) / options.epochs))
        learned = untie(student, learned)
        distances = trainer.held_distances(student)
        since += 1
        if distances.mean() < best.distances.mean():
            best, since = _State(best.tensors | learned, _floats(student, best.tensors), distances), 0
        if since >= options.patience:
            break
    return best


def _train_codes(
    trainer: Trainer,
    model: nn.Module,
    tensors: Mapping[str, CompressedTensor],
    train: list[Any],
    quantize: Quantize | None,
) -> _State:
    """Quantizes a copy of `model` layer after layer, training what is still a float in between; then the floats."""
    options = trainer.options
    student = copy.deepcopy(model)
    parameters = dict(student.named_parameters())
    order = list(dict.fromkeys(n for t in find_targets(student, list(tensors)) for n in t.names.values()))
    order = [name for name in order if name in tensors]
    rates = _float_rates(student, tensors, options)
    rates |= {name: options.weight_lr * root_mean_square(parameters[name]) for name in order}
    descent = Descent(trainer, student, rates)
    found = dict(tensors)
    for name in order:
        trainer.progress(name)
        descent.freeze(name)
        found[name] = _quantized(student, name, tensors[name], train, quantize)
        for step in range(options.layer_steps):
            descent.step(1 - step / options.layer_steps)
    reached = _State(found, _floats(student, found), trainer.held_distances(student))
    return _train_floats(trainer, student, reached)


@torch.no_grad()
def _quantized(
    student: nn.Module, name: str, fitted: CompressedTensor, train: list[Any], quantize: Quantize | None
) -> CompressedTensor:
    """A weight of `student` quantized, in place, the bias of its module corrected by the mean shift of its outputs."""
    parameters = dict(student.named_parameters())
    statistics = collect(student, train, layers=[name], unreached="ignore").get(name)
    if statistics is None:
        parameters[name].copy_(fitted.dequantize())
        return fitted
    weight = parameters[name].detach().clone()
    if quantize is None:
        found = requantized(weight, fitted, statistics, trellis_of(fitted))
    else:
        found = quantize(name, weight, statistics)
    parameters[name].copy_(found.dequantize())
    module = name.rpartition(".")[0]
    bias = parameters.get(f"{module}.bias" if module else "bias")
    shift = output_shift(weight, found.dequantize(), statistics)
    if bias is not None and name.endswith("weight") and bias.shape == shift.shape:
        bias.add_(shift.to(bias))
    return found


def _cosine(part: float) -> float:
    return (1 + math.cos(math.pi * part)) / 2
