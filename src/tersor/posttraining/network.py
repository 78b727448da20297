"""A network made ready for compression: folded, with statistics, and in the order in which it works."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tersor.calibration import LayerStatistics, collect, execution_order
from tersor.posttraining.options import Calibrate


@dataclass(frozen=True)
class Network:
    """What passes start from; nothing of it is changed by them.

    model:      computes what the user's does, in evaluation mode.
    samples:    batches.
    statistics: of the model's layers, by name of the weight.
    stages:     names of weights in the order of use; what a stage's layers receive is measured in one pass.
    bias_of:    name of the weight -> that of the tensor which holds the layer's shift.
    """

    model: nn.Module
    samples: list[Any]
    statistics: Mapping[str, LayerStatistics]
    stages: tuple[tuple[str, ...], ...]
    bias_of: Mapping[str, str]


def prepare(model: nn.Module, samples: list[Any], options: Calibrate) -> Network:
    """Folds and calibrates a copy of `model`. Errors as `collect`."""
    work = copy.deepcopy(model).eval()
    statistics = collect(work, samples, fisher=True, seed=options.seed)
    parameters = dict(work.named_parameters(remove_duplicate=False))
    wanted = [
        name
        for name in execution_order(work, samples[0], seed=options.seed)
        if name in statistics and name in parameters and not any(fnmatchcase(name, p) for p in options.keep)
    ]
    biases = {name: name.removesuffix("weight") + "bias" for name in wanted if name.endswith("weight")}
    present = {name: bias for name, bias in biases.items() if bias in parameters}
    return Network(work, samples, statistics, stages_of(wanted, options.sequential), present)


def stages_of(names: list[str], sequential: str) -> tuple[tuple[str, ...], ...]:
    """Consecutive names of one block: those alike up to their last number ("layer1.0.conv1" -> "layer1.0")."""
    if sequential == "off":
        return (tuple(names),)
    stages: list[tuple[str, ...]] = []
    last = None
    for name in names:
        block = _block(name) if sequential == "block" else name
        if stages and block == last:
            stages[-1] += (name,)
        else:
            stages.append((name,))
        last = block
    return tuple(stages)


def _block(name: str) -> str:
    """The name of the innermost numbered module that holds others: numbers that end a name are list entries."""
    match = re.match(r"(.*\.\d+)\..*\..*", f".{name}")
    return match.group(1) if match else name
