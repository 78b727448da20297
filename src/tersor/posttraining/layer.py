"""One layer at one multiplier: steps from the loss, codes from the trellis inside error feedback."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tersor.calibration import LayerStatistics, RowSteps, Trellis, Trust, dependent_uniform, factorize, loss_steps, snap
from tersor.calibration.damping import Factor
from tersor.calibration.feedback import as_matrices
from tersor.calibration.steps import TRELLIS_FACTOR
from tersor.posttraining.options import Calibrate
from tersor.tensors import Uniform

MOST_STEPS = 1 << 13
"""Of the largest weight: codes are 16 bits wide, and feedback may move weights further out."""


@dataclass(frozen=True)
class Layer:
    """What is to be quantized, and for what.

    weight:     of the original network.
    target:     what the layer should compute from the inputs of `statistics`: `weight`, or (G, R, N).
    statistics: of the inputs that the layer gets.
    rows:       G_r, float64 (G, R): `row_weights` of the original network.
    """

    weight: Tensor
    target: Tensor
    statistics: LayerStatistics
    rows: Tensor


def quantize_layer(
    layer: Layer, rate: float, options: Calibrate, *, mask: Tensor | None = None, threads: int | None = 1
) -> Uniform:
    """Codes that serve the layer's target best at `rate` nats a bit; weights outside of `mask` are pruned."""
    statistics = layer.statistics
    factor = factorize(statistics, options.damping)
    steps = row_steps(layer.rows, factor, statistics, rate, options, as_matrices(layer.target, statistics))
    return dependent_uniform(
        layer.target,
        statistics,
        factor,
        steps,
        _trellis(statistics, options),
        mask=mask,
        dtype=layer.weight.dtype,
        threads=threads,
    )


def row_weights(statistics: LayerStatistics, floor: float, trust: Trust | None = None) -> Tensor:
    """G_r for steps, with at least `floor` of its mean in every row: few samples say little of rarely used outputs."""
    weights = statistics.row_weights() * (1.0 if trust is None else trust.correction)
    return weights * (1 - floor) + weights.mean() * floor


def row_steps(
    weights: Tensor,
    factor: Factor,
    statistics: LayerStatistics,
    rate: float,
    options: Calibrate,
    matrices: Tensor | None = None,
) -> RowSteps:
    """The steps of a layer's rows at `rate` nats a bit; not finer than codes can count `matrices` (G, R, N) in."""
    exponent = 0.0 if statistics.layout.transposed else options.row_exponent
    steps = loss_steps(weights, factor, rate, exponent)
    if _trellis(statistics, options).states > 1:
        steps = steps * TRELLIS_FACTOR
    if matrices is not None:
        steps = steps.maximum(matrices.abs().amax() / MOST_STEPS)
    return snap(steps)


def _trellis(statistics: LayerStatistics, options: Calibrate) -> Trellis:
    """Files know no paths along columns, which are the outputs of transposed layouts."""
    return Trellis(1 if statistics.layout.transposed else options.states, options.survivors)
