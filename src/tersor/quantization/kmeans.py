"""k-means of numbers (Han et al. 2016, Deep Compression, section 3): the weights of a layer share K values.

In one dimension the best clustering consists of intervals, so it can be found by dynamic programming over the
sorted values (Wang and Song 2011, Ckmeans.1d.dp) rather than only a local optimum by Lloyd's algorithm.

Legend: n values, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core

Init = Literal["exact", "linear", "density", "random"]


@dataclass(frozen=True)
class KMeans:
    """A clustering of n values.

    centroids: float32 (K,), strictly ascending; K <= k.
    codes:     uint8 (n,), the cluster of each value.
    sse:       sum over values of weight * (value - centroid)^2, with the centroids rounded to float32.
    proven:    no clustering into as many clusters has less error, but for rounding; only "exact" can prove it.
    """

    centroids: NDArray[np.float32]
    codes: NDArray[np.uint8]
    sse: float
    proven: bool


def kmeans(
    values: Tensor | NDArray[np.float32],
    k: int,
    *,
    weights: Tensor | NDArray[np.float32] | None = None,
    init: Init = "exact",
    iterations: int = 300,
    seed: int = 0,
) -> KMeans:
    """Clusters numbers into at most `k` intervals, each represented by its weighted mean.

    values:     float32 (n,), finite, n >= 1.
    k:          1 to 256. Fewer clusters come back if there are fewer distinct values.
    weights:    float32 (n,), finite, >= 0, not all zero: how much the squared error of each value counts.
    init:       "exact" searches for the global optimum. The others start Lloyd's algorithm as
                Deep Compression does: "linear" (equally spaced between minimum and maximum),
                "density" (quantiles of the values), "random" (k of the values). Clusters that stay empty, and
                starting points that coincide, are dropped.
    iterations: at most so many rounds of Lloyd's algorithm; not used by "exact".
    seed:       of "random".

    "exact" tries all partitions if k * (number of distinct values) <= 2^19. Above, it works on cells of the
    number line that become finer where boundaries of the optimum can lie; bounds rule out the rest, so that the
    result is proven to be the global optimum. If bounds leave more than 2^19 places, only those nearest to the best
    partition so far are kept and `proven` is false. Comparisons are made in double: what is below 1e-13 of the
    sum of squares about the median is not resolved. The result depends on nothing but the arguments: not on
    threads, not on the instruction set.

    Raises ValueError for wrong arguments, NaN and infinity among them.
    """
    data = _vector(values, "values")
    scales = None if weights is None else _vector(weights, "weights")
    codes = np.empty(data.shape, dtype=np.uint8)
    centroids, sse, proven = core.kmeans1d(data, scales, k, init, iterations, seed, codes)
    return KMeans(np.frombuffer(centroids, dtype=np.float32).copy(), codes, sse, proven)


def _vector(array: Tensor | NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if array.dtype not in (torch.float32, np.float32) or array.ndim != 1:
        raise ValueError(f"{name} must be a float32 vector, got {array.dtype} {tuple(array.shape)}")
    if isinstance(array, Tensor):
        array = array.detach().cpu().numpy()
    return np.ascontiguousarray(array)
