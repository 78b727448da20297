"""The multiplier that meets a budget, in as few trials as possible: every trial compresses the whole network.

Legend: a trial is what a multiplier gave. Sizes fall and losses rise with the multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_HIGHEST, _LOWEST = 1e6, 1e-18
"""Multipliers outside change nothing any more: all weights are zero, or exact."""

_STRIDE = math.log(4)
"""A large step of a multiplier, in logarithm: a bit of each weight."""


def meet_size(
    trial: Callable[[float], T],
    size: Callable[[T], int],
    predicted: Callable[[float], float],
    target: int,
    *,
    within: float = 0.01,
    attempts: int = 8,
) -> T | None:
    """The trial whose size lies in [(1 - within) target, target], or the largest found below it; None if none is.

    predicted: a cheap estimate of the size at a multiplier, decreasing: it gives the first trial. What it leaves out
               (tables, other tensors, the container) is nearly constant, which gives the second. From then on sizes
               are taken for linear in the multiplier's logarithm. Three trials as a rule.
    """
    goal = target * (1 - within / 2)
    best: T | None = None
    trials: list[tuple[float, int]] = []  # logarithm of the multiplier, size
    for _ in range(attempts):
        rate = math.exp(_next(trials, predicted, goal))
        if not _LOWEST < rate < _HIGHEST:
            break
        result = trial(rate)
        reached = size(result)
        trials.append((math.log(rate), reached))
        if reached <= target:
            best = result if best is None or reached > size(best) else best
            if reached >= target * (1 - within):
                break
    return best


def _next(trials: list[tuple[float, int]], predicted: Callable[[float], float], goal: float) -> float:
    """The logarithm of the multiplier to try next: always between those that gave too much and too little."""
    if not trials:
        return math.log(rate_of(predicted, goal))
    large = max((t for t in trials if t[1] > goal), default=None)
    small = min((t for t in trials if t[1] <= goal), default=None)
    if large and small:
        part = (large[1] - goal) / max(large[1] - small[1], 1)
        return large[0] + (small[0] - large[0]) * min(max(part, 0.1), 0.9)
    last = trials[-1]
    away = _STRIDE if last[1] > goal else -_STRIDE
    if len(trials) == 1:
        guess = math.log(rate_of(predicted, goal - (last[1] - predicted(math.exp(last[0])))))
    else:
        slope = (last[1] - trials[-2][1]) / (last[0] - trials[-2][0])
        guess = last[0] + (goal - last[1]) / slope if slope < 0 else last[0] + away
    # On from where it was too large (or back), by a little at least and by a stride at most.
    step = min(max((guess - last[0]) / away, 0.02), 8.0)
    return last[0] + away * step


def rate_of(predicted: Callable[[float], float], size: float) -> float:
    """The multiplier whose estimated size is `size`, within 0.1 %; the end of the range if there is none."""
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    while high - low > 1e-3:
        middle = (low + high) / 2
        if predicted(math.exp(middle)) > size:
            low = middle
        else:
            high = middle
    return math.exp(high)


def least_size(
    trial: Callable[[float], T],
    size: Callable[[T], int],
    drop: Callable[[T], float],
    start: float,
    max_drop: float,
    *,
    attempts: int = 6,
) -> T | None:
    """The smallest trial found whose drop is at most `max_drop`; None if there was none.

    Metrics of few samples are noisy, so that no root is polished: multipliers are stepped by a factor that halves (in
    logarithm) once the limit lies between two of them.
    """
    good, bad = 0.0, math.inf
    best: T | None = None
    rate = start
    for _ in range(attempts):
        if not _LOWEST < rate < _HIGHEST:
            break
        result = trial(rate)
        if drop(result) <= max_drop:
            best = result if best is None or size(result) < size(best) else best
            good = max(good, rate)
        else:
            bad = min(bad, rate)
        if good and bad < math.inf:
            if bad / good < 1.15:
                break
            rate = math.sqrt(good * bad)
        else:
            rate = rate * 4 if good else rate / 4
    return best
