"""One layer at one multiplier: steps from the loss, codes from the trellis inside error feedback."""

from __future__ import annotations

from torch import Tensor

from tersor.calibration import LayerStatistics, RowSteps, Trellis, dependent_uniform, factorize, loss_steps, snap
from tersor.calibration.damping import Factor
from tersor.calibration.steps import TRELLIS_FACTOR
from tersor.posttraining.options import Calibrate
from tersor.tensors import Uniform


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
    trellis = _trellis(statistics, options)
    return dependent_uniform(target, statistics, factor, steps, trellis, dtype=weight.dtype, threads=threads)


def row_weights(statistics: LayerStatistics, floor: float) -> Tensor:
    """G_r with at least `floor` of its mean in every row: few samples say little of rarely used outputs."""
    weights = statistics.row_weights()
    return weights * (1 - floor) + weights.mean() * floor


def row_steps(
    weights: Tensor, factor: Factor, statistics: LayerStatistics, rate: float, options: Calibrate
) -> RowSteps:
    """The steps of a layer's rows at `rate` nats a bit."""
    exponent = 0.0 if statistics.layout.transposed else options.row_exponent
    steps = loss_steps(weights, factor, rate, exponent)
    return snap(steps * TRELLIS_FACTOR if _trellis(statistics, options).states > 1 else steps)


def by_rows(statistics: LayerStatistics) -> LayerStatistics:
    """Statistics whose rows can have steps of their own: embeddings are seen by their rows."""
    embedding = statistics.layout.diagonal and statistics.layout.transposed
    return statistics.by_rows() if embedding else statistics


def _trellis(statistics: LayerStatistics, options: Calibrate) -> Trellis:
    """Files know no paths along columns, which are the outputs of transposed layouts."""
    return Trellis(1 if statistics.layout.transposed else options.states, options.survivors)
