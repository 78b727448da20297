"""Steps of rows, in units of loss: one multiplier for every layer of a network.

Legend: G groups, R rows of a group, N inputs of a row, D_r the step of row r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.calibration.damping import Factor
from tersor.errors import UsageError
from tersor.octaves import OCTAVE, steps_of_multipliers

TRELLIS_FACTOR = 0.625
"""The grid of a trellis of the same rate, as a fraction of the scalar step (each of its quantizers has twice that)."""


@dataclass(frozen=True)
class RowSteps:
    """D_r = base * 2^(m_r / 8).

    base:        a bfloat16 number.
    multipliers: int8 (G, R), m_r.
    """

    base: float
    multipliers: Tensor

    def values(self) -> Tensor:
        """float32 (G, R): the steps (`octaves.steps_of_multipliers`)."""
        return steps_of_multipliers(torch.tensor(self.base, dtype=torch.bfloat16), self.multipliers)


def loss_steps(weights: Tensor, factor: Factor, rate: float, exponent: float = 1.0) -> Tensor:
    """D_r = b c_r^(-e/2), float64 (G, R): steps at which a bit of the layer saves `rate` nats.

    On a fine grid a weight of row r costs c_r D_r^2 / 24 nats on average, c_r = G_r / GM(U_jj)^2, and some constant
    - log2 D_r bits. Setting the ratio of their derivatives by log2 b to `rate` gives

        b^2 = 12 rate / (ln 2 mean_r(c_r^(1 - e)))

    which for e = 1 is optimal for every row by itself: D_r = sqrt(12 rate / (ln 2 G_r)) GM(U_jj). GM is the geometric
    mean over a row's columns, which one step must serve. A trellis takes `TRELLIS_FACTOR` times these steps.

    weights:  G_r, float64 (G, R), from `LayerStatistics.row_weights`. Rows of weight zero get the step of the smallest
              positive weight; if all are zero, that of weight one.
    rate:     nats per bit, positive.
    exponent: e, 0 (one step for the layer) to 1: G_r is an estimate, and steps that follow it less are less noisy.
    """
    if not rate > 0 or not math.isfinite(rate):
        raise UsageError(f"rate must be a positive number of nats per bit, got {rate!r}")
    positive = weights[weights > 0]
    least = positive.min() if positive.numel() else torch.ones((), dtype=torch.float64)
    costs = torch.where(weights > 0, weights, least) / factor.mean_scale().square()[:, None]
    base = (12 * rate / (math.log(2) * costs.pow(1 - exponent).mean())).sqrt()
    return base * costs.pow(-exponent / 2)


def snap(steps: Tensor) -> RowSteps:
    """`steps` (G, R) > 0 on the grid of `RowSteps`, before anything is rounded to them.

    The base is the geometric mean. Multipliers stay within +-127 (16 octaves).
    """
    if not bool((steps > 0).all()) or not bool(torch.isfinite(steps).all()):
        raise UsageError("steps must be positive and finite")
    logs = steps.double().log2()
    middle = logs.mean() if logs.numel() else torch.zeros((), dtype=torch.float64)
    base = float(middle.exp2().to(torch.bfloat16))
    offsets = ((logs - math.log2(base)) * OCTAVE).round().clamp(-127, 127)
    return RowSteps(base, offsets.to(torch.int8))
