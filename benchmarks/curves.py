"""Size/accuracy curves of codecs, and the one way in which the benchmarks read them.

A curve is a list of points (bytes of the whole file, accuracy in percent), in any order. It is read on its envelope:
the points that no smaller file equals. Between neighbours there, accuracy is linear in log bytes; outside, a curve
says nothing. The envelope counts lucky points in full, so a curve of single runs reads a little smaller than the mean
of several draws: where rivals run once and we average, this favours the rivals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]
"""Bytes of the file, accuracy in percent."""


def envelope(curve: Iterable[Point]) -> list[Point]:
    """The points that no smaller or equal file equals in accuracy, by rising bytes (and so rising accuracy)."""
    best: list[Point] = []
    for size, accuracy in sorted(curve, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((size, accuracy))
    return best


def bytes_at(curve: Iterable[Point], reference: float, drop: float) -> float | None:
    """Bytes at an accuracy of `reference - drop` (percent); None where the curve has no points on both sides of it."""
    target = reference - drop
    points = envelope(curve)
    for (small, low), (large, high) in itertools.pairwise(points):
        if low <= target <= high:
            share = (target - low) / (high - low)
            return math.exp(math.log(small) + share * (math.log(large) - math.log(small)))
    return None


def mean_curve(draws: Sequence[Sequence[Point]]) -> list[Point]:
    """One curve of several draws that ran at the same rates, in the same order: the geometric mean of their bytes and
    the mean of their accuracies at each rate."""
    if len({len(draw) for draw in draws}) != 1:
        raise ValueError(f"draws must have a point at each rate, got {[len(draw) for draw in draws]} points")
    count = len(draws)
    return [
        (math.exp(sum(math.log(size) for size, _ in rate) / count), sum(accuracy for _, accuracy in rate) / count)
        for rate in zip(*draws, strict=True)
    ]


def ratio_at(ours: Iterable[Point], theirs: Iterable[Point], reference: float, drop: float) -> float | None:
    """Our bytes divided by theirs, `drop` points below `reference`; None where a curve does not reach there."""
    a, b = bytes_at(ours, reference, drop), bytes_at(theirs, reference, drop)
    return None if a is None or b is None else a / b
