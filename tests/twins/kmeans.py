"""The optimum of one-dimensional k-means: all partitions of the sorted values into intervals."""

from __future__ import annotations

import numpy as np


def optimal_sse(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    """In O(k n^2)."""
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


def optimal_sse_of_many(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    """In O(k n log n): the best last interval begins no further left for a later end, so one level of the recursion
    that halves the ends is done at a time (divide and conquer), over the distinct values."""
    points, group = np.unique(values.astype(np.float64), return_inverse=True)
    w = np.bincount(group, weights=weights)
    x = points - np.average(points, weights=w)
    total, first, second = (np.concatenate([[0], np.cumsum(w * x**p)]) for p in range(3))
    n = len(points)
    best = np.full(n + 1, np.inf)
    best[0] = 0
    for _ in range(k):
        best = _one_more(best, total, first)
    return float(second[-1] + best[-1])


def _one_more(best: np.ndarray, total: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The least of best[i] - (first[j] - first[i])^2 / (total[j] - total[i]) over i <= j, for each j."""
    n = len(best)
    choice, result = np.zeros(n, dtype=np.int64), np.full(n, np.inf)
    step = 1 << (n - 1).bit_length()
    while step:
        ends = np.arange(step - 1, n, 2 * step)
        low = np.where(ends - step >= 0, choice[np.maximum(ends - step, 0)], 0)
        high = np.where(ends + step < n, choice[np.minimum(ends + step, n - 1)], n - 1)
        high = np.minimum(high, ends)
        sizes = high - low + 1
        begins = np.cumsum(sizes) - sizes
        end = np.repeat(ends, sizes)
        begin = np.arange(sizes.sum()) - np.repeat(begins - low, sizes)
        weight = total[end] - total[begin]
        gain = (first[end] - first[begin]) ** 2 / np.where(weight > 0, weight, 1)
        value = best[begin] - gain
        result[ends] = np.minimum.reduceat(value, begins)
        hit = np.flatnonzero(value == np.repeat(result[ends], sizes))
        row = np.repeat(np.arange(len(ends)), sizes)[hit]
        choice[ends[row[::-1]]] = begin[hit[::-1]]
        step //= 2
    return result
