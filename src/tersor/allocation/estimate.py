"""A guess at the size of a file, before anything is quantized: entropies of plainly rounded samples of the weights.

Legend: k = round(w / D) at a step D, D proportional to the root of the multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SAMPLE = 1 << 14
"""Weights that stand for those of a layer."""


@dataclass(frozen=True)
class LayerSample:
    """Some of a layer's weights, in units of their rows' steps at a multiplier of one. count: weights of the layer."""

    count: int
    values: NDArray[np.float64]

    @classmethod
    def of(cls, weight: Tensor, steps: Tensor) -> LayerSample:
        """weight (rows, N), steps (rows,) at a multiplier of one; the sample is spread evenly."""
        stride = max(weight.numel() // _SAMPLE, 1) | 1  # odd: even strides may see some columns only
        places = torch.arange(0, weight.numel(), stride)
        chosen = weight.reshape(-1)[places].double() / steps.reshape(-1)[places // weight.shape[1]].double()
        return cls(weight.numel(), chosen.numpy())


def estimated_bytes(layers: Sequence[LayerSample], rate: float) -> float:
    """Bytes of all layers at the multiplier `rate`, by the order-0 entropy of each."""
    return sum(layer.count * _entropy(layer.values / math.sqrt(rate)) for layer in layers) / 8


def _entropy(values: NDArray[np.float64]) -> float:
    """Bits a value, of values rounded to integers. Where samples are too few to tell, the density's: smooth in rate."""
    if values.size == 0:
        return 0.0
    # Wide distributions: a coarser grid has the same entropy less the logarithm of the ratio of steps.
    spread = float(np.sqrt(np.mean(values * values))) + 1e-300
    coarser = max(math.floor(math.log2(spread / 16)), 0) if spread < 1e300 else 0
    _, counts = np.unique(np.rint(values / 2.0**coarser), return_counts=True)
    p = counts / values.size
    return float(-(p * np.log2(p)).sum()) + coarser
