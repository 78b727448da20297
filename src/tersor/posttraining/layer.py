"""One layer at one multiplier: steps from the loss, codes from the trellis inside error feedback."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.calibration import LayerStatistics, RowSteps, dependent_uniform, factorize, loss_steps, snap
from tersor.calibration.damping import Factor
from tersor.calibration.steps import TRELLIS_FACTOR
from tersor.posttraining.options import Calibrate
from tersor.tensors import Uniform


def row_weights(statistics: LayerStatistics, floor: float) -> Tensor:
    """G_r with at least `floor` of its mean in every row: few samples say little of rarely used outputs."""
    weights = statistics.row_weights()
    return weights * (1 - floor) + weights.mean() * floor


def row_steps(
    weights: Tensor, factor: Factor, statistics: LayerStatistics, rate: float, options: Calibrate
) -> RowSteps:
    """The steps of a layer's rows at `rate` nats a bit."""
    layout = statistics.layout
    exponent = 0.0 if layout.transposed else options.row_exponent
    steps = loss_steps(weights, factor, rate, exponent)
    return snap(steps * TRELLIS_FACTOR if _states(statistics, options) > 1 else steps)


def quantize_layer(
    weight: Tensor,
    target: Tensor,
    statistics: LayerStatistics,
    weights: Tensor,
    rate: float,
    options: Calibrate,
    threads: int | None = 1,
) -> Uniform:
    """`weight` in codes that serve `target` best.

    target:     what the layer should compute from the inputs of `statistics`: `weight`, or (G, R, N).
    statistics: of the inputs that the layer gets. weights: `row_weights`, of the original network.
    """
    factor = factorize(statistics, options.damping)
    steps = row_steps(weights, factor, statistics, rate, options)
    trellis = options.trellis()
    if statistics.layout.transposed:
        trellis = type(trellis)(1, trellis.survivors)
    return dependent_uniform(target, statistics, factor, steps, trellis, dtype=weight.dtype, threads=threads)


def _states(statistics: LayerStatistics, options: Calibrate) -> int:
    return 1 if statistics.layout.transposed else options.states


def as_weight(statistics: LayerStatistics) -> LayerStatistics:
    """Statistics whose rows can have steps of their own: embeddings are seen by their rows."""
    diagonal = statistics.layout.diagonal and statistics.layout.transposed
    return statistics.by_rows() if diagonal else statistics


def finite(weight: Tensor) -> bool:
    """Whether it can be quantized at all."""
    return bool(torch.isfinite(weight).all())
