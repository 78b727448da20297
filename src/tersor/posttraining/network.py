"""A network made ready for compression: folded, with statistics, and in the order in which it works."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tersor.calibration import (
    LayerStatistics,
    Reference,
    Trust,
    bias_of,
    cross_validate,
    default_objective,
    execution_order,
    fisher_projection,
    fold_batch_norms,
    merge,
    random_projection,
    reference_outputs,
    vector_weights,
)
from tersor.calibration.collect import collect, tell_unreached
from tersor.calibration.samples import halves
from tersor.calibration.targets import find_targets
from tersor.errors import CalibrationError, UsageError
from tersor.posttraining.options import Calibrate
from tersor.progress import Progress
from tersor.work import Work

_PREDICTIONS = 512
"""Enough to know the mean squared gradient of a vector: an error of a tenth costs 0.001 bits an entry."""

_OBJECTIVES = {"auto": default_objective, "logits": fisher_projection, "values": random_projection}


@dataclass(frozen=True)
class Network:
    """What passes start from; nothing of it is changed by them.

    model:      computes what the user's does, in evaluation mode.
    samples:    batches.
    statistics: of the layers to quantize, by the first name of the weight, in the order of use.
    trust:      how far these can be trusted, by the same names.
    paired:     names whose inputs are measured again behind quantized layers; others keep the original network's.
    bias_of:    name of the weight -> that of the bias which moves the layer's outputs.
    vectors:    trace of the Fisher matrix of the other parameters, by name.
    reference:  the model's outputs.
    """

    model: nn.Module
    samples: list[Any]
    statistics: Mapping[str, LayerStatistics]
    trust: Mapping[str, Trust]
    paired: frozenset[str]
    bias_of: Mapping[str, str]
    vectors: Mapping[str, float]
    reference: Reference


def prepare(
    model: nn.Module, samples: list[Any], options: Calibrate, work: Work, progress: Progress | None = None
) -> Network:
    """Folds and calibrates a copy of `model`. Errors as `collect`."""
    report = progress or _silent
    _check_patterns(model, options)
    report("folding", 0, 4)
    if options.fold:
        folded = fold_batch_norms(model, samples, seed=options.seed)
        own, biases = folded.model, folded.bias_of
    else:
        own = copy.deepcopy(model).eval()
        biases = bias_of(own)
    report("collecting statistics", 1, 4)
    found = _statistics(own, samples, options, work)
    order = execution_order(own, samples[0], seed=options.seed)
    statistics, paired = _of_parameters(own, merge(*found), order, options)
    parts = [_of_parameters(own, half, order, options)[0] for half in found]
    trust = _trusts({name: [part[name] for part in parts if name in part] for name in statistics}, options, work)
    report("weighing the other parameters", 2, 4)
    others = [
        name
        for name, parameter in own.named_parameters()
        if name not in statistics and parameter.is_floating_point() and not _kept(name, options)
    ]
    objective = _OBJECTIVES[options.outputs]
    vectors = vector_weights(own, samples, others, objective=objective, limit=_PREDICTIONS, seed=options.seed)
    report("noting outputs", 3, 4)
    reference = reference_outputs(own, samples, classes=options.classes, seed=options.seed)
    return Network(own, samples, statistics, trust, paired, biases, vectors, reference)


def _statistics(
    model: nn.Module, samples: list[Any], options: Calibrate, work: Work
) -> list[dict[str, LayerStatistics]]:
    """Statistics of each half of the batches."""
    parts: list[dict[str, LayerStatistics]] = []
    for half in halves(samples):
        found = work.load_statistics(f"half {half.first}")
        if found is None:
            objective, seed = _OBJECTIVES[options.outputs], options.seed + half.first
            try:
                found = collect(model, half, fisher=objective, seed=seed, unreached="ignore")
            except CalibrationError as error:
                raise _explained(error, model) from error
            work.save_statistics(f"half {half.first}", found)
        parts.append(found)
    names = dict.fromkeys(target.names[local] for target in find_targets(model, None) for local in target.layouts)
    tell_unreached([name for name in names if not any(name in part for part in parts)], "warn")
    return parts


def _explained(error: CalibrationError, model: nn.Module) -> CalibrationError:
    """`error`, with the parameter that is at fault, if one is."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return CalibrationError(
                f"{name} of the model holds NaN or Inf: mend it, or compress without calibration ({error})"
            )
    return error


def _trusts(layers: Mapping[str, list[LayerStatistics]], options: Calibrate, work: Work) -> dict[str, Trust]:
    """By name. Layers that take in the same, one after the other (queries, keys, values), are found out once."""
    found: dict[str, Trust] = {}
    last: list[LayerStatistics] = []
    for name, parts in layers.items():
        if not found or not _same_inputs(last, parts):
            trust = _trust(name, parts, options, work)
        last, found[name] = parts, trust
    return found


def _same_inputs(first: list[LayerStatistics], second: list[LayerStatistics]) -> bool:
    return len(first) == len(second) and all(
        a.layout == b.layout and a.samples == b.samples and torch.equal(a.moment, b.moment)
        for a, b in zip(first, second, strict=True)
    )


def _trust(name: str, parts: list[LayerStatistics], options: Calibrate, work: Work) -> Trust:
    """As `cross_validate`; the least damping where one half of the samples did not reach the layer."""
    if len(parts) < 2 or parts[0].layout != parts[1].layout:
        return Trust(options.damping)
    known = [work.load_number(f"{key} {name}") for key in ("damping", "correction")]
    if known[0] is not None and known[1] is not None:
        return Trust(known[0], known[1])
    trust = cross_validate(parts[0], parts[1], options.damping)
    work.save_number(f"damping {name}", trust.damping)
    work.save_number(f"correction {name}", trust.correction)
    return trust


def _of_parameters(
    model: nn.Module, found: Mapping[str, LayerStatistics], order: list[str], options: Calibrate
) -> tuple[dict[str, LayerStatistics], frozenset[str]]:
    """Statistics of each parameter once, in the order of first use; and the names whose inputs can be paired.

    Those are used once, and multiply no one-hot inputs. An embedding that is also the output layer is quantized by the
    statistics of the latter: most of its rows are rare tokens, of which samples say little as inputs, but all as
    outputs.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    statistics: dict[str, LayerStatistics] = {}
    uses: Counter[str] = Counter()
    for use in order:
        parameter = parameters.get(use)
        if use not in found or parameter is None or _kept(names[id(parameter)], options) or not _quantizable(parameter):
            continue
        name = names[id(parameter)]
        uses[name] += 1
        if name not in statistics or statistics[name].layout.diagonal:
            statistics[name] = found[use]
    paired = frozenset(name for name, own in statistics.items() if uses[name] == 1 and not own.layout.diagonal)
    return statistics, paired


def _quantizable(parameter: torch.Tensor) -> bool:
    return parameter.is_floating_point() and parameter.dim() >= 2 and bool(torch.isfinite(parameter).all())


def _check_patterns(model: nn.Module, options: Calibrate) -> None:
    names = list(model.state_dict())
    for pattern in options.keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"keep: the pattern {pattern!r} matches none of {len(names)} tensors; {names[0]!r} is one")


def _kept(name: str, options: Calibrate) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in options.keep)


def _silent(stage: str, done: float, total: float) -> None:
    pass
