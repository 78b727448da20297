"""From a histogram of activations to the range that a grid should cover. Pure functions.

Legend: N bins, x their values (means), n their counts, L levels of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.simulation.affine import Affine, affine

_SHARES = 80
"""Ends tried in a search, evenly spaced in what share of the range they keep."""
_RARE = 1e-6
_STRIDES = 256
"""Thresholds that the divergence is computed at."""


def percentile_range(values: Tensor, counts: Tensor, percentile: float) -> tuple[float, float]:
    """The range that leaves (100 - percentile) / 2 % of the values out on each side.

    On a side whose end is 0, or where no value has that sign, nothing is to be gained, and all of it goes to the other.
    """
    total = counts.cumsum(0)
    out = (1 - percentile / 100) * float(total[-1])
    both = float(values[0]) < 0 < float(values[-1])
    below = out / 2 if both else out if float(values[-1]) <= 0 else 0.0
    above = out - below
    low = values[int(torch.searchsorted(total, below, right=True).clamp(max=len(values) - 1))]
    high = values[int(torch.searchsorted(total, float(total[-1]) - above).clamp(max=len(values) - 1))]
    return float(low), float(high)


def mse_range(values: Tensor, counts: Tensor, bits: int, symmetric: bool) -> tuple[float, float]:
    """The range of least squared error: sum n (x - Q(x))^2, each end in turn, twice."""
    low, high = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
    shares = torch.linspace(1.0, 1.0 / _SHARES, _SHARES).tolist()
    best = (low, high)
    for _ in range(1 if symmetric or low == 0 or high == 0 else 2):
        ends = [(low * s, high * s) for s in shares] if symmetric else [(best[0], high * s) for s in shares]
        best = min(ends, key=lambda end: squared_error(values, counts, affine(end[0], end[1], bits, symmetric)))
        if not symmetric and low < 0:
            ends = [(low * s, best[1]) for s in shares]
            best = min(ends, key=lambda end: squared_error(values, counts, affine(end[0], end[1], bits)))
    return best


def squared_error(values: Tensor, counts: Tensor, grid: Affine) -> float:
    """sum n (x - Q(x))^2."""
    rounded = (grid.round(values) - grid.zero) * grid.scale
    return float((counts * (values - rounded).square()).sum())


def entropy_range(counts: Tensor, start: float, width: float, bits: int) -> tuple[float, float]:
    """The range |x| <= T that loses least information, as TensorRT has it (Migacz 2017).

    For each T, P is the distribution of the values with |x| <= T, those beyond counted at the end; Q is the same
    without those beyond, in as few bins as the grid has levels of one sign, spread over the bins that P fills. T is
    where KL(P || Q) is least. The bin of 0 counts as its neighbour does: zeros, half of what rectifiers give, are on
    every grid, and would be spread over the first level. counts: float64 (N,) of the bins [start + i width, start +
    (i + 1) width).
    """
    low, high = start, start + width * len(counts)
    levels = 1 << (bits if low >= 0 else bits - 1)
    magnitudes = _magnitudes(counts, start, width)
    magnitudes[0] = magnitudes[1]
    last = int(magnitudes.nonzero().max()) + 1 if bool(magnitudes.any()) else 1
    size = max(abs(low), abs(high)) / len(magnitudes)
    if last <= levels:
        return max(low, -last * size), min(high, last * size)
    stride = max(len(magnitudes) // _STRIDES, 1)
    tried = [*range(levels, last, stride), last]
    best = min(tried, key=lambda threshold: _divergence(magnitudes, threshold, levels))
    return max(low, -best * size), min(high, best * size)


def _magnitudes(counts: Tensor, start: float, width: float) -> Tensor:
    """The histogram of |x|, of as many bins, up to the larger end."""
    bins = len(counts)
    middles = start + width * (torch.arange(bins, dtype=torch.float64) + 0.5)
    size = max(abs(start), abs(start + width * bins)) / bins
    places = (middles.abs() / size).long().clamp(max=bins - 1)
    return torch.zeros(bins, dtype=torch.float64).index_add_(0, places, counts.cpu())


def _divergence(magnitudes: Tensor, threshold: int, levels: int) -> float:
    """KL(P || Q) of the first `threshold` bins on `levels` levels. What Q lacks counts as very rare, not impossible."""
    inside = magnitudes[:threshold]
    p = inside.clone()
    p[-1] += magnitudes[threshold:].sum()
    level = torch.arange(threshold) * levels // threshold
    filled = (inside > 0).double()
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inside)
    places = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, filled)
    q = (mass / places.clamp(min=1))[level] * filled
    p, q = p / p.sum(), q / q.sum().clamp(min=1e-300)
    seen = p > 0
    return float((p[seen] * (p[seen] / q[seen].clamp(min=_RARE)).log()).sum())
