"""A network made ready for compression: folded, with statistics, and in the order in which it works."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from tersor.calibration import (
    LayerStatistics,
    Reference,
    bias_of,
    execution_order,
    fold_batch_norms,
    reference_outputs,
    vector_weights,
)
from tersor.calibration.collect import collect
from tersor.posttraining.options import Calibrate
from tersor.progress import Progress
from tersor.work import Work


@dataclass(frozen=True)
class Network:
    """What passes start from; nothing of it is changed by them.

    model:      computes what the user's does, in evaluation mode.
    samples:    batches.
    statistics: of the layers to quantize, by the first name of the weight.
    stages:     names of weights in the order of use; what a stage's layers receive is measured in one pass.
    paired:     names whose inputs are measured again; others keep the statistics of the original network.
    bias_of:    name of the weight -> that of the bias which moves the layer's outputs.
    vectors:    trace of the Fisher matrix of the other parameters, by name.
    reference:  the model's outputs.
    """

    model: nn.Module
    samples: list[Any]
    statistics: Mapping[str, LayerStatistics]
    stages: tuple[tuple[str, ...], ...]
    paired: frozenset[str]
    bias_of: Mapping[str, str]
    vectors: Mapping[str, float]
    reference: Reference


def prepare(
    model: nn.Module, samples: list[Any], options: Calibrate, work: Work, progress: Progress | None = None
) -> Network:
    """Folds and calibrates a copy of `model`. Errors as `collect`."""
    report = progress or _silent
    report("folding", 0, 4)
    if options.fold:
        folded = fold_batch_norms(model, samples, seed=options.seed)
        own, biases = folded.model, folded.bias_of
    else:
        own = copy.deepcopy(model).eval()
        biases = bias_of(own)
    report("collecting statistics", 1, 4)
    found = work.load_statistics("network")
    if found is None:
        found = collect(own, samples, fisher=True, seed=options.seed)
        work.save_statistics("network", found)
    order = execution_order(own, samples[0], seed=options.seed)
    statistics, paired = _of_parameters(own, found, [name for name in order if name in found], options)
    report("weighing the other parameters", 2, 4)
    others = [
        name
        for name, parameter in own.named_parameters()
        if name not in statistics and parameter.is_floating_point() and not _kept(name, options)
    ]
    vectors = vector_weights(own, samples, others, seed=options.seed)
    report("noting outputs", 3, 4)
    reference = reference_outputs(own, samples, seed=options.seed)
    stages = stages_of(list(statistics), options.sequential, options.most_stages)
    return Network(own, samples, statistics, stages, paired, biases, vectors, reference)


def stages_of(names: list[str], sequential: str, most: int) -> tuple[tuple[str, ...], ...]:
    """Consecutive names of one block: those alike up to their last number ("layer1.0.conv1" -> "layer1.0").

    Where blocks are more than `most`, neighbours are joined: each stage costs two passes of the network up to it.
    """
    if sequential == "off":
        return (tuple(names),)
    blocks: list[tuple[str, ...]] = []
    last = None
    for name in names:
        block = _block(name) if sequential == "block" else name
        if blocks and block == last:
            blocks[-1] += (name,)
        else:
            blocks.append((name,))
        last = block
    if sequential == "layer" or len(blocks) <= most:
        return tuple(blocks)
    bounds = [round(i * len(blocks) / most) for i in range(most + 1)]
    return tuple(tuple(n for block in blocks[i:j] for n in block) for i, j in pairwise(bounds))


def _of_parameters(
    model: nn.Module, found: Mapping[str, LayerStatistics], order: list[str], options: Calibrate
) -> tuple[dict[str, LayerStatistics], frozenset[str]]:
    """Statistics of each parameter once, in the order of first use; and the names whose inputs can be paired.

    An embedding that is also the output layer is quantized where it is first used, by the statistics of the other use:
    most of its rows are rare tokens, about which few samples say much as inputs, and all as outputs.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    statistics: dict[str, LayerStatistics] = {}
    paired = set()
    for use in order:
        parameter = parameters.get(use)
        name = use if parameter is None else names[id(parameter)]
        if parameter is None or _kept(name, options) or not _quantizable(parameter):
            continue
        if name not in statistics:
            statistics[name] = found[use]
            if not found[use].layout.diagonal:
                paired.add(use)
        elif statistics[name].layout.diagonal:
            statistics[name] = found[use]
    return statistics, frozenset(paired & set(statistics))


def _quantizable(parameter: torch.Tensor) -> bool:
    return parameter.is_floating_point() and parameter.dim() >= 2 and bool(torch.isfinite(parameter).all())


def _kept(name: str, options: Calibrate) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in options.keep)


def _block(name: str) -> str:
    """The innermost numbered module that holds others: "layer1.0.conv1.weight" -> "layer1.0"; else the name itself."""
    match = re.match(r"(?:.*\.)?\d+(?=\.[^.]*\..)", name)
    return match.group() if match else name


def _silent(stage: str, done: float, total: float) -> None:
    pass
