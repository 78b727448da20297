"""Calibrated compression: passes over the whole network, at the multiplier that meets a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tersor.allocation import Budget, Curve, Point, least_size, meet_size
from tersor.allocation.estimate import LayerSample, estimated_bytes
from tersor.calibration import divergence, factorize, reestimate, round_vectors
from tersor.calibration.batchnorm import apply
from tersor.calibration.samples import listed
from tersor.container.writer import Entry, file_bytes
from tersor.disguise import Duplicates
from tersor.entries import represent
from tersor.errors import CalibrationError, TersorError, UsageError
from tersor.interop import from_state_dict
from tersor.model import CompressedModel
from tersor.posttraining import Calibrate, Network, Quantized, prepare, quantize
from tersor.posttraining.layer import row_steps, row_weights
from tersor.progress import Progress
from tersor.quantization import Lossless
from tersor.recipe import Recipe, TensorKey
from tersor.tensors import CompressedTensor
from tersor.training import Recover, recover
from tersor.work import Work

Evaluate = Callable[[nn.Module], float]

DEFAULT_BITS = 4.0
"""The budget where none is given."""

_NEGLIGIBLE = 0.01
"""Nats a sample that a first trial may cost where the metric decides: too little for most metrics to show."""


@torch.inference_mode(False)
def compress_calibrated(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    budget: Budget | None = None,
    options: Calibrate | None = None,
    evaluate: Evaluate | None = None,
    work: Work | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> CompressedModel:
    """The smallest file of `model` for a budget, by what samples without labels show of it.

    model:    in any mode; it is not changed.
    samples:  batches, as `calibration.collect` takes them; kept in memory, since they are used again and again.
    budget:   None for 4 bits a weight. Sizes are met to within 1 % below.
    evaluate: a compressed copy of the model -> a metric, higher is better; needed for `max_drop`, where it is called
              for each trial (8 at most) and once for the model itself. With other budgets it is called for the result.
    work:     what it holds is not computed again, with the same result (see `work.identity_of`); None for nothing.
    threads:  None for one a CPU. The result does not depend on it.

    The result's `curve` holds all trials. Raises UsageError for a budget that cannot be met, saying what can;
    CalibrationError where samples do not fit the model or `evaluate` fails; errors of `collect`.
    """
    budget, options = budget or Budget(bits=DEFAULT_BITS), options or Calibrate()
    if evaluate is not None and not callable(evaluate):
        raise UsageError(f"evaluate must be a function of the model, got {evaluate!r}")
    if not isinstance(options, Calibrate):
        raise UsageError(f"options must be a tersor.Calibrate, got {options!r}")
    if budget.max_drop is not None and evaluate is None:
        raise UsageError("max_drop needs evaluate, a function of the model whose result may drop by that much")
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values()
    weights = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    if not weights:
        raise UsageError("the model has no weights of floating point that could be compressed")
    batched = listed(samples)
    search = _Search(model, batched, options, evaluate, work or Work(None, b""), progress, threads)
    target = budget.target_bytes(weights)
    best = search.meet(target) if target is not None else search.limit(budget.max_drop or 0.0)
    curve = Curve.of(search.points, best.point, search.reference)
    return CompressedModel(best.entries, original_bytes=sum(tensor.nbytes for tensor in tensors), curve=curve)


def sweep(
    model: nn.Module,
    samples: Iterable[Any],
    rates: Iterable[float],
    *,
    options: Calibrate | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Iterator[Trial]:
    """`model` at each of several multipliers, in nats a bit: a curve of size against quality, calibrated once.

    Arguments and errors as `compress_calibrated`.
    """
    batched = listed(samples)
    search = _Search(model, batched, options or Calibrate(), evaluate, Work(None, b""), progress, threads)
    yield from map(search.trial, rates)


@dataclass(frozen=True)
class Trial:
    """A compressed network: its tensors in the order of the state_dict, and what was measured of it."""

    entries: tuple[Entry, ...]
    point: Point


@dataclass
class _Search:
    """Trials of one network, each at its multiplier. Mutable: `points` and `reference` grow with the trials."""

    model: nn.Module
    samples: list[Any]
    options: Calibrate
    evaluate: Evaluate | None
    work: Work
    progress: Progress | None
    threads: int | None
    points: list[Point] = field(default_factory=list)
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.evaluate is not None:
            self.reference = self._metric("original", copy.deepcopy(self.model))
        self.network = prepare(self.model, self.samples, self.options, self.work, self.progress)

    def meet(self, target: int) -> Trial:
        """The best trial of at most `target` bytes."""
        layers = _layer_samples(self.network, self.options)
        found = meet_size(self.trial, lambda trial: trial.point.bytes, lambda r: estimated_bytes(layers, r), target)
        if found is None:
            floor = min(point.bytes for point in self.points)
            raise UsageError(
                f"the budget of {target:,} bytes is below the floor: the smallest file found for this network takes "
                f"{floor:,} bytes; allow that much, or prune the network first"
            )
        return found

    def limit(self, max_drop: float) -> Trial:
        """The smallest trial whose metric fell by at most `max_drop`."""
        reference = self.reference
        assert reference is not None

        def drop(trial: Trial) -> float:
            return reference - (trial.point.metric if trial.point.metric is not None else -math.inf)

        found = least_size(self.trial, lambda trial: trial.point.bytes, drop, self._first_rate(), max_drop)
        if found is None:
            least = min(reference - point.metric for point in self.points if point.metric is not None)
            raise UsageError(
                f"no file found keeps the metric within {max_drop:g} of the original's {reference:g}; the closest lost "
                f"{least:g}: allow more"
            )
        return found

    def trial(self, rate: float) -> Trial:
        """The network at `rate`, measured."""
        progress, number = self.progress, len(self.points) + 1

        def report(stage: str, done: float, total: float) -> None:
            if progress is not None:
                progress(f"trial {number}: {stage}", done, total)

        quantized = quantize(self.network, rate, self.options, self.work, threads=self.threads, progress=report)
        if self.options.recover != "off":
            quantized = self._recovered(quantized)
        entries = finished(self.network, quantized, self.options)
        away = divergence(self.network.reference, quantized.student, self.samples, seed=self.options.seed)
        metric = None if self.evaluate is None else self._metric(repr(rate), quantized.student)
        trial = Trial(entries, Point(rate, file_bytes(entries, self.threads), away, metric))
        self.points.append(trial.point)
        return trial

    def _recovered(self, quantized: Quantized) -> Quantized:
        """`quantized`, or what recovery found that is closer to the network on samples held out from it."""
        codes, seed = self.options.recover == "codes", self.options.seed
        options = Recover(codes=codes, classes=self.options.classes, seed=seed)
        found = recover(self.network.model, quantized.student, quantized.tensors, self.samples, options)
        values = {**{name: tensor.dequantize() for name, tensor in found.tensors.items()}, **found.floats}
        with torch.no_grad():
            for name, value in values.items():
                quantized.student.get_parameter(name).copy_(value)
        return replace(quantized, tensors=found.tensors)

    def _first_rate(self) -> float:
        """Where the predicted loss is negligible: at the optimum each weight costs about rate / (2 ln 2) nats."""
        weights = sum(statistics.shape.numel() for statistics in self.network.statistics.values())
        return 2 * math.log(2) * _NEGLIGIBLE / weights

    def _metric(self, key: str, model: nn.Module) -> float:
        found = self.work.load_number(f"metric {key}")
        if found is not None:
            return found
        assert self.evaluate is not None
        value = measured(self.evaluate, model)
        self.work.save_number(f"metric {key}", value)
        return value


def measured(evaluate: Evaluate, model: nn.Module, of: str = "") -> float:
    """What `evaluate` gives for `model`, in evaluation mode. CalibrationError if it fails or gives no finite number.

    of: what the model is, for messages: " of the model as it is".
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        value = evaluate(model)
    except TersorError:
        raise
    except Exception as error:
        raise CalibrationError(f"evaluate{of} raised {type(error).__name__}: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        number = float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"evaluate{of} must return a number, higher is better; it gave {value!r}") from error
    if not math.isfinite(number):
        raise CalibrationError(f"evaluate{of} gave {number}; it must return a finite number, higher is better")
    return number


@torch.no_grad()
def finished(network: Network, quantized: Quantized, options: Calibrate) -> tuple[Entry, ...]:
    """All tensors of the network, represented; `quantized.student` takes their values."""
    student = quantized.student
    if options.reestimate:
        _reestimated(network, student, options)
    rounded = round_vectors(student, network.vectors, quantized.rate)
    for name, vector in rounded.items():
        student.get_parameter(name).copy_(vector.dequantize())
    tensors: dict[str, CompressedTensor] = {**quantized.tensors, **rounded}
    entries, duplicates = [], Duplicates()
    with from_state_dict(student.state_dict(keep_vars=True)) as checkpoint:
        keys = [TensorKey(info.name, info.shape, info.dtype) for info in checkpoint.info.tensors]
        unreached = Recipe.default().plan(keys)
        for info in checkpoint.info.tensors:
            fitted: CompressedTensor | None = tensors.get(info.name)
            if fitted is None and info.tied_to is None:
                exact = info.name in network.vectors or not _is_left_over(network, info.name, options)
                value = checkpoint.read(info.name)
                earlier = duplicates.find(info.name, value, checkpoint.read) if exact else None
                if earlier is not None:
                    entries.append(Entry(info.name, None, earlier, info.note, copied=True))
                    continue
                fitted = represent(info.name, value, Lossless() if exact else unreached[info.name].representation)
            entries.append(Entry(info.name, fitted, info.tied_to, info.note))
    return tuple(entries)


def _is_left_over(network: Network, name: str, options: Calibrate) -> bool:
    """Whether no sample reached this parameter, so that nothing is known of it."""
    parameters = dict(network.model.named_parameters(remove_duplicate=False))
    kept = any(fnmatchcase(name, pattern) for pattern in options.keep)
    return name in parameters and name not in network.statistics and not kept


def _reestimated(network: Network, student: nn.Module, options: Calibrate) -> None:
    """Gives `student` the running moments of its own activations if that lowers the divergence."""

    def away() -> float:
        return divergence(network.reference, student, network.samples, seed=options.seed)

    before, buffers = away(), dict(student.named_buffers())
    found = reestimate(student, network.samples, seed=options.seed)
    own = {n: (buffers[f"{n}.running_mean"].clone(), buffers[f"{n}.running_var"].clone()) for n in found}
    apply(student, found)
    if away() >= before:
        apply(student, own)


def _layer_samples(network: Network, options: Calibrate) -> list[LayerSample]:
    """The layers' weights in units of the steps that they get at a multiplier of one."""
    samples = []
    for name, own in network.statistics.items():
        statistics = own.in_rows()
        trust = network.trust[name]
        weights = row_weights(statistics, options.row_floor, trust)
        steps = row_steps(weights, factorize(statistics, trust.damping), statistics, 1.0, options)
        matrices = statistics.layout.matrices(network.model.get_parameter(name).detach())
        # Indices of a trellis count double steps.
        width = 2 if options.states > 1 and not statistics.layout.transposed else 1
        samples.append(LayerSample.of(matrices.reshape(-1, matrices.shape[2]), width * steps.values().reshape(-1)))
    return samples
