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

    predicted: a cheap estimate of the size at a multiplier, decreasing. What it leaves out (tables, other tensors, the
               container) is nearly constant, so that each trial corrects it for the next. Once the target lies
               between two trials, sizes are taken for linear in the multiplier's logarithm there.
    """
    goal = target * (1 - within / 2)
    best: T | None = None
    small: tuple[float, float] | None = None  # of the trials below the target the largest: log multiplier, size
    large: tuple[float, float] | None = None  # of those above it the smallest
    correction = 0.0
    for _ in range(attempts):
        if small and large:
            part = (large[1] - goal) / max(large[1] - small[1], 1)
            log_rate = large[0] + (small[0] - large[0]) * min(max(part, 0.1), 0.9)
        else:
            log_rate = math.log(rate_of(predicted, goal - correction))
            if large and log_rate <= large[0]:
                log_rate = large[0] + math.log(4)
            if small and log_rate >= small[0]:
                log_rate = small[0] - math.log(4)
        rate = math.exp(log_rate)
        if not _LOWEST < rate < _HIGHEST:
            break
        result = trial(rate)
        reached = size(result)
        if reached <= target:
            best = result if best is None or reached > size(best) else best
            if reached >= target * (1 - within):
                break
            small = (log_rate, reached) if small is None or log_rate < small[0] else small
        else:
            large = (log_rate, reached) if large is None or log_rate > large[0] else large
        correction = reached - predicted(rate)
    return best


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
