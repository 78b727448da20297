"""Allocation without data: trellis-coded steps for every weight, at the multiplier that meets a size."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.allocation import Curve, Point, meet_size
from tersor.allocation.estimate import LayerSample, estimated_bytes
from tersor.calibrated import Trial
from tersor.calibration import Factor, LayerStatistics, Layout, dependent_uniform, loss_steps, snap
from tersor.calibration.steps import TRELLIS_FACTOR
from tersor.container.writer import Entry, file_bytes
from tersor.entries import represent
from tersor.errors import UsageError
from tersor.interop import Checkpoint, TensorInfo
from tersor.layers import matrix_shape
from tersor.model import CompressedModel
from tersor.posttraining import Calibrate
from tersor.posttraining.layer import MOST_STEPS
from tersor.progress import Progress
from tersor.quantization import Cast, Lossless
from tersor.recipe import TensorKey
from tersor.tensors import CompressedTensor

_MOST = 1.5
"""No step is larger than this times the root mean square of its tensor."""


def compress_weights(
    checkpoint: Checkpoint,
    target: int,
    options: Calibrate | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """The tensors of a checkpoint in a file of `target` bytes, to within 1 % below: weights on trellis-coded steps.

    Without data every squared error of a weight counts the same, whatever its tensor (steps that follow the tensors'
    spreads lost 2 to 5 times as many nats in ResNet-20 and EfficientNet-Lite0). Vectors become bfloat16; what is no
    float, or not finite, stays exact.
    options: the trellis. Raises UsageError for a budget below what the rest takes.
    """
    options = options or Calibrate()
    infos = [info for info in checkpoint.info.tensors if info.tied_to is None]
    weights = [info for info in infos if _is_weight(info)]
    layers = [_sample(checkpoint.read(info.name), options) for info in weights]
    points: list[Point] = []

    def trial(rate: float) -> Trial:
        entries = []
        for number, info in enumerate(checkpoint.info.tensors):
            tensor = None if info.tied_to is not None else _fit(checkpoint, info, rate, options, threads)
            entries.append(Entry(info.name, tensor, info.tied_to, info.note))
            if progress is not None:
                progress(info.name, number + 1, len(checkpoint.info.tensors))
        found = Trial(tuple(entries), Point(rate, file_bytes(tuple(entries), threads), 0.0))
        points.append(found.point)
        return found

    best = meet_size(trial, lambda t: t.point.bytes, lambda rate: estimated_bytes(layers, rate), target)
    if best is None:
        raise UsageError(
            f"the budget of {target:,} bytes is below the floor: the smallest file found takes "
            f"{min(point.bytes for point in points):,} bytes; allow that much"
        )
    return CompressedModel(best.entries, curve=Curve.of(points, best.point))


def _is_weight(info: TensorInfo) -> bool:
    return TensorKey(info.name, info.shape, info.dtype).is_weight


def _fit(
    checkpoint: Checkpoint, info: TensorInfo, rate: float, options: Calibrate, threads: int | None
) -> CompressedTensor:
    value = checkpoint.read(info.name)
    if not info.dtype.is_floating_point or not bool(torch.isfinite(value).all()):
        return represent(info.name, value, Lossless())
    if not _is_weight(info):
        return represent(info.name, value, Cast("bfloat16") if info.dtype == torch.float32 else Lossless())
    statistics, factor = _plain(value)
    # A tensor of small numbers next to others must not vanish: networks scale what they multiply.
    most = _MOST * (float(value.double().square().mean().sqrt()) or 1.0)
    least = float(value.abs().max()) / MOST_STEPS
    steps = snap(_steps(value, factor, rate, options).clamp(least, max(most, least)))
    return dependent_uniform(value, statistics, factor, steps, options.trellis(), dtype=value.dtype, threads=threads)


def _plain(value: Tensor) -> tuple[LayerStatistics, Factor]:
    """H = I: no input is like another, and none larger."""
    length = matrix_shape(value.shape)[1]
    statistics = LayerStatistics(
        value.shape,
        Layout(diagonal=True),
        1,
        torch.ones(1, dtype=torch.int64),
        torch.ones(1, length),
        torch.zeros(1, length, dtype=torch.float64),
        None,
    )
    return statistics, Factor(None, torch.ones(1, length, dtype=torch.float64))


def _steps(value: Tensor, factor: Factor, rate: float, options: Calibrate) -> Tensor:
    """float64 (1, rows): one step for all tensors, which makes the squared error of all of them the least."""
    rows = matrix_shape(value.shape)[0]
    steps = loss_steps(torch.ones(1, rows, dtype=torch.float64), factor, rate)
    return steps * (TRELLIS_FACTOR if options.states > 1 else 1.0)


def _sample(value: Tensor, options: Calibrate) -> LayerSample:
    steps = _steps(value, _plain(value)[1], 1.0, options).reshape(-1)
    return LayerSample.of(value.reshape(matrix_shape(value.shape)), steps * (2 if options.states > 1 else 1))
