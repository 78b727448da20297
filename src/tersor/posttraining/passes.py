"""One pass over a network at one multiplier: layer by layer, each behind those that are quantized already."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace

import torch
from torch import nn

from tersor.calibration import PairStatistics, output_shift
from tersor.calibration.lockstep import lockstep
from tersor.calibration.pairs import TARGET_DAMPING, cross_validated_damping
from tersor.container.writer import Entry, file_bytes
from tersor.posttraining.candidates import best_candidate
from tersor.posttraining.layer import Layer, row_weights
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

    def put(name: str, found: dict[str, CompressedTensor]) -> None:
        _put(student, found)
        tensors[name] = found[name]
        if progress is not None:
            progress(f"quantizing {name}", len(tensors), len(network.statistics))

    def make(name: str, halves: list[PairStatistics]) -> None:
        found = _layer(network, student, name, halves, rate, options, threads)
        work.save_layer(repr(rate), name, found)
        put(name, found)

    def visit(pairs: dict[str, list[PairStatistics]]) -> None:
        for name, halves in pairs.items():
            make(name, halves)

    for name in network.statistics:
        known = work.load_layer(repr(rate), name)
        if known is not None:
            put(name, known)
        elif name not in network.paired or not options.sequential:
            make(name, [])
    missing = [name for name in network.statistics if name not in tensors]
    if missing:
        lockstep(network.model, student, network.samples, missing, visit, seed=options.seed)
    for name in missing:
        if name not in tensors:  # the networks took different ways through their own code
            make(name, [])
    return Quantized(rate, student, tensors)


def _layer(
    network: Network,
    student: nn.Module,
    name: str,
    halves: list[PairStatistics],
    rate: float,
    options: Calibrate,
    threads: int | None,
) -> dict[str, CompressedTensor]:
    """The weight and, if it moves, the bias, by their names."""
    weight = network.model.get_parameter(name).detach()
    original = network.statistics[name]
    trust = network.trust[name]
    options = replace(options, damping=trust.damping)
    rows = row_weights(original.in_rows(), options.row_floor, trust)
    pair = functools.reduce(PairStatistics.merge, halves) if halves else None
    if pair is None:
        statistics, target = original.in_rows(), weight
    else:
        damping = TARGET_DAMPING
        if len(halves) == 2:
            damping = cross_validated_damping(weight, halves[0], halves[1], original.row_weights())
        statistics, target = pair.quantized, pair.target(weight, damping)
    tensor = best_candidate(Layer(weight, target, statistics, rows), rate, options, _size, threads)
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


def _size(tensor: CompressedTensor) -> int:
    return file_bytes([Entry("", tensor)])
