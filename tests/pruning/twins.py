"""Slow, obvious twins of masks and criteria."""

import itertools

import numpy as np

from tersor.layers import geometry


def best(values, count):
    """Positions of the `count` largest of a sequence, ties by position."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def unit_lists(shape, pattern):
    """The units of a weight of `shape`, in order: lists of (row, position in the row)."""
    rows, columns, kernel = geometry(shape)
    length = columns * kernel
    if pattern == "weight":
        return [[(r, n)] for r in range(rows) for n in range(length)]
    if pattern == "row":
        return [[(r, n) for n in range(length)] for r in range(rows)]
    if pattern == "column":
        return [[(r, i * kernel + k) for r in range(rows) for k in range(kernel)] for i in range(columns)]
    if pattern == "kernel":
        return [[(r, i * kernel + k) for k in range(kernel)] for r in range(rows) for i in range(columns)]
    height, width = map(int, pattern.split("x"))
    return [
        list(itertools.product(range(r, min(r + height, rows)), range(n, min(n + width, length))))
        for r in range(0, rows, height)
        for n in range(0, length, width)
    ]


def unit_mask(scores, pattern, density):
    """Mask (O, N) of the best units by mean score; scores (O, N) float64 numpy, of a weight of shape `shape`."""
    shape, matrix = scores.shape, scores.reshape(geometry(scores.shape).rows, -1)
    units = unit_lists(shape, pattern)
    means = [float(np.mean([matrix[p] for p in unit])) for unit in units]
    keep = np.zeros(matrix.shape, bool)
    for chosen in best(means, round(density * len(units))):
        for place in units[chosen]:
            keep[place] = True
    return keep.reshape(shape)


def n_of_m_mask(scores, kept, of):
    """Mask of the best `kept` of each `of` neighbouring inputs, one kernel position after the other."""
    rows, columns, kernel = geometry(scores.shape)
    matrix = scores.reshape(rows, columns, kernel)
    keep = np.zeros(matrix.shape, bool)
    for r, k in itertools.product(range(rows), range(kernel)):
        for begin in range(0, columns, of):
            group = matrix[r, begin : begin + of, k]
            for chosen in best(list(group), kept):
                keep[r, begin + chosen, k] = True
    return keep.reshape(scores.shape)


def entropy(pooled, bins):
    """Entropy of each channel's histogram, by numpy."""
    result = []
    for channel in pooled.T:
        counts, _ = np.histogram(channel, bins=bins, range=(channel.min(), channel.max() + (np.ptp(channel) == 0)))
        p = counts[counts > 0] / len(channel)
        result.append(-(p * np.log(p)).sum())
    return np.array(result)
