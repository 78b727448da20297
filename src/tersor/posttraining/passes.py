"""One pass over a network at one multiplier: layer by layer, each behind those that are quantized already."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.calibration import PairStatistics, collect_pair, output_shift
from tersor.posttraining.layer import by_rows, quantize_layer, row_weights
from tersor.posttraining.network import Network
from tersor.posttraining.options import Calibrate
from tersor.progress import Progress
from tersor.tensors import CompressedTensor, Dense
from tersor.work import Work


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
    network: Network,
    rate: float,
    options: Calibrate,
    work: Work,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """All layers of `network` at `rate` nats a bit, those that `work` holds taken from there."""
    student = copy.deepcopy(network.model)
    tensors: dict[str, CompressedTensor] = {}
    count = sum(map(len, network.stages))
    for number, stage in enumerate(network.stages):
        pairs: dict[str, PairStatistics] | None = None
        for name in stage:
            found = work.load_layer(repr(rate), name)
            if found is None:
                if pairs is None:
                    pairs = _pairs(network, student, stage, options) if number else {}
                found = _layer(network, student, name, pairs.get(name), rate, options, threads)
                work.save_layer(repr(rate), name, found)
            _put(student, found)
            tensors[name] = found[name]
            if progress is not None:
                progress(f"quantizing {name}", len(tensors), count)
    return Quantized(rate, student, tensors)


def _pairs(
    network: Network, student: nn.Module, stage: tuple[str, ...], options: Calibrate
) -> dict[str, PairStatistics]:
    layers = [name for name in stage if name in network.paired]
    if not layers:
        return {}
    # Layers of this stage that were restored must not count as quantized, as they did not when these pairs were found.
    student = copy.deepcopy(student)
    _put_original(student, network, stage)
    return collect_pair(network.model, student, network.samples, layers, seed=options.seed)


def _layer(
    network: Network,
    student: nn.Module,
    name: str,
    pair: PairStatistics | None,
    rate: float,
    options: Calibrate,
    threads: int | None,
) -> dict[str, CompressedTensor]:
    """The weight and, if it moves, the bias, by their names."""
    weight = network.model.get_parameter(name).detach()
    original = network.statistics[name]
    weights = row_weights(by_rows(original), options.row_floor)
    if pair is None:
        statistics, target = by_rows(original), weight
    else:
        statistics, target = pair.quantized, pair.target(weight)
    tensor = quantize_layer(weight, target, statistics, weights, rate, options, threads)
    found: dict[str, CompressedTensor] = {name: tensor}
    if options.correct and name in network.bias_of:
        values = tensor.dequantize()
        shift = output_shift(weight, values, original) if pair is None else pair.output_shift(weight, values)
        own = network.bias_of[name]
        bias = student.get_parameter(own).detach()
        shifted = bias + shift.reshape(bias.shape).to(bias)
        found[own] = Dense(shifted.shape, shifted.dtype, None, shifted)
    return found


@torch.no_grad()
def _put(student: nn.Module, tensors: dict[str, CompressedTensor]) -> None:
    for name, tensor in tensors.items():
        student.get_parameter(name).copy_(tensor.dequantize())


@torch.no_grad()
def _put_original(student: nn.Module, network: Network, stage: tuple[str, ...]) -> None:
    for name in stage:
        for own in (name, network.bias_of.get(name, name)):
            parameter: Tensor = student.get_parameter(own)
            parameter.copy_(network.model.get_parameter(own))
