"""The multiplier of rate-aware training that meets a budget, in as few trainings as possible: each takes minutes.

Networks start from one another: a stage begins where the one with the next lower multiplier ended, which has all that
the smaller network needs and more. Sizes fall about as a power of the multiplier.

Legend: a stage is a training at one multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tersor.errors import UsageError

T = TypeVar("T")

_EXPONENT = -0.8
"""Of sizes by multipliers, until two stages say it: LeNets and ResNets lie between -0.7 and -0.9."""

_FACTOR = 8.0
"""From one stage to the next at most: from too far away a start is none."""


@dataclass(frozen=True)
class Stage(Generic[T]):
    """What a training gave: the network, its bytes in a file, and its metric on validation data, higher is better."""

    multiplier: float
    network: T
    size: int
    metric: float


Train = Callable[[float, T], Stage[T]]
"""(multiplier, network to start from, which stays as it is) -> the stage."""


def train_to_size(
    train: Train[T], start: T, max_bytes: int, first: float, *, within: float = 0.05, attempts: int = 5
) -> Stage[T] | None:
    """The stage of the best metric among those of at most `max_bytes`; None if no stage was small enough.

    first: multiplier of the first stage. Ends with a stage between (1 - within) max_bytes and max_bytes, or after so
    many `attempts`. Two or three stages as a rule. UsageError for numbers that are not positive.
    """
    _check(first, attempts)
    if max_bytes <= 0:
        raise UsageError(f"max_bytes must be positive, got {max_bytes}")
    goal = max_bytes * (1 - within / 2)
    stages: list[Stage[T]] = []
    multiplier = first
    for _ in range(attempts):
        stages.append(train(multiplier, _nearest(stages, multiplier, start)))
        if (1 - within) * max_bytes <= stages[-1].size <= max_bytes:
            break
        multiplier = _towards(stages, goal)
    small = [stage for stage in stages if stage.size <= max_bytes]
    return max(small, key=lambda stage: (stage.metric, -stage.size), default=None)


def train_to_drop(
    train: Train[T], start: T, least_metric: float, first: float, *, closer: float = 1.3, attempts: int = 6
) -> Stage[T] | None:
    """The smallest stage whose metric is at least `least_metric`; None if no stage was good enough.

    The multiplier doubles from `first` on while networks are good enough, or halves until one is; then the ratio of the
    two is halved, in logarithm, until it is below `closer`: metrics of validation data are noisy. UsageError as above.
    """
    _check(first, attempts)
    stages: list[Stage[T]] = []
    good, bad = 0.0, math.inf
    multiplier = first
    for _ in range(attempts):
        stage = train(multiplier, _nearest(stages, multiplier, start))
        stages.append(stage)
        if stage.metric >= least_metric:
            good = max(good, multiplier)
        else:
            bad = min(bad, multiplier)
        if good and bad < math.inf:
            if bad / good < closer:
                break
            multiplier = math.sqrt(good * bad)
        else:
            multiplier *= 2.0 if good else 0.5
    enough = [stage for stage in stages if stage.metric >= least_metric]
    return min(enough, key=lambda stage: (stage.size, -stage.metric), default=None)


def _nearest(stages: list[Stage[T]], multiplier: float, start: T) -> T:
    """The network of the highest multiplier below: a smaller one may have lost what this one could use."""
    below = [stage for stage in stages if stage.multiplier < multiplier]
    return max(below, key=lambda stage: stage.multiplier).network if below else start


def _towards(stages: list[Stage[T]], goal: float) -> float:
    """The multiplier at which the power law through the two stages nearest to the goal has the size `goal`."""
    near = sorted(stages, key=lambda stage: abs(math.log(max(stage.size, 1) / goal)))[:2]
    one = near[0]
    exponent = _EXPONENT
    if len(near) == 2 and near[0].multiplier != near[1].multiplier:
        found = math.log(max(near[1].size, 1) / max(one.size, 1)) / math.log(near[1].multiplier / one.multiplier)
        exponent = found if -4.0 < found < -0.2 else _EXPONENT
    factor = (goal / max(one.size, 1)) ** (1 / exponent)
    return one.multiplier * min(max(factor, 1 / _FACTOR), _FACTOR)


def _check(first: float, attempts: int) -> None:
    if not (math.isfinite(first) and first > 0) or attempts < 1:
        raise UsageError(f"the first multiplier and the attempts must be positive, got {first} and {attempts}")
