"""The optimum of one-dimensional k-means in O(k n^2): all partitions of the sorted values into intervals."""

from __future__ import annotations

import numpy as np


def optimal_sse(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    x = values.astype(np.float64)
    w = np.ones_like(x) if weights is None else weights.astype(np.float64)
    order = np.argsort(x)
    x, w = x[order], w[order]
    n = len(x)

    def cost(first: int, last: int) -> float:
        total = w[first:last].sum()
        if total == 0:
            return 0.0
        mean = (w[first:last] * x[first:last]).sum() / total
        return float((w[first:last] * (x[first:last] - mean) ** 2).sum())

    costs = [[cost(i, j) if i < j else 0.0 for j in range(n + 1)] for i in range(n + 1)]
    best = [0.0] + [float("inf")] * n
    for _ in range(k):
        best = [min(best[i] + costs[i][j] for i in range(j + 1)) for j in range(n + 1)]
    return best[n]
