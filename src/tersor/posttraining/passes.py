"""One pass over a network at one multiplier: layer by layer, each behind those that are quantized already."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.calibration import PairStatistics, collect_pair, output_shift
from tersor.posttraining.layer import as_weight, quantize_layer, row_weights
from tersor.posttraining.network import Network
from tersor.posttraining.options import Calibrate
from tersor.tensors import CompressedTensor

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Quantized:
    """A network at one multiplier.

    student: the network's model with the values that `tensors` stand for, and shifted biases.
    tensors: the weights of its layers.
    """

    rate: float
    student: nn.Module
    tensors: dict[str, CompressedTensor]


def quantize(
    network: Network, rate: float, options: Calibrate, *, threads: int | None = None, progress: Progress | None = None
) -> Quantized:
    """All layers of `network` at `rate` nats a bit. The result depends on nothing else but the options."""
    student = copy.deepcopy(network.model)
    tensors: dict[str, CompressedTensor] = {}
    count = sum(map(len, network.stages))
    for number, stage in enumerate(network.stages):
        pairs: dict[str, PairStatistics] = {}
        dense = [name for name in stage if not network.statistics[name].layout.diagonal]
        if number and dense:
            pairs = collect_pair(network.model, student, network.samples, dense, seed=options.seed)
        for name in stage:
            tensors[name] = _layer(network, student, name, pairs.get(name), rate, options, threads)
            if progress is not None:
                progress("quantizing", len(tensors), count)
    return Quantized(rate, student, tensors)


@torch.no_grad()
def _layer(
    network: Network,
    student: nn.Module,
    name: str,
    pair: PairStatistics | None,
    rate: float,
    options: Calibrate,
    threads: int | None,
) -> CompressedTensor:
    weight = network.model.get_parameter(name)
    original = network.statistics[name]
    weights = row_weights(as_weight(original), options.row_floor)
    if pair is None:
        statistics, target = as_weight(original), weight.detach()
    else:
        statistics, target = pair.quantized, pair.target(weight)
    tensor = quantize_layer(weight, target, statistics, weights, rate, options, threads)
    values = tensor.dequantize()
    student.get_parameter(name).copy_(values)
    if options.correct and name in network.bias_of:
        shift = _shift(weight, values, pair, original)
        bias = student.get_parameter(network.bias_of[name])
        bias.add_(shift.to(bias.dtype))
    return tensor


def _shift(weight: Tensor, values: Tensor, pair: PairStatistics | None, original: object) -> Tensor:
    if pair is not None:
        return pair.output_shift(weight, values)
    return output_shift(weight, values, original)  # type: ignore[arg-type]
