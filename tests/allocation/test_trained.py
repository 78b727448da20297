"""The search for a multiplier, over trainings that are formulas."""

from __future__ import annotations

import math

import pytest

from tersor.allocation.trained import Stage, train_to_drop, train_to_size
from tersor.errors import UsageError


class Trainings:
    """Sizes c m^-a; the network is the multiplier. Metrics fall by the square root of the multiplier."""

    def __init__(self, exponent=0.8, scale=2300.0, overhead=100):
        self.exponent, self.scale, self.overhead = exponent, scale, overhead
        self.calls: list[tuple[float, float]] = []

    def __call__(self, multiplier, start):
        self.calls.append((multiplier, start))
        size = round(self.scale * (multiplier / 1e-5) ** -self.exponent) + self.overhead
        return Stage(multiplier, multiplier, size, 99.0 - 0.5 * math.sqrt(multiplier / 1e-5))


@pytest.mark.parametrize("exponent", [0.5, 0.8, 1.3])
@pytest.mark.parametrize("target", [900, 2100, 9000])
def test_sizes_are_met_in_a_few_trainings(exponent, target):
    train = Trainings(exponent)
    found = train_to_size(train, 0.0, target, 1e-5)
    assert found is not None and 0.95 * target <= found.size <= target
    assert len(train.calls) <= 5 and (exponent != 0.8 or len(train.calls) <= 3)


def test_a_stage_starts_from_the_next_larger_network():
    train = Trainings()
    train_to_drop(train, -1.0, 98.0, 1e-5)
    for number, (multiplier, start) in enumerate(train.calls):
        below = [before for before, _ in train.calls[:number] if before < multiplier]
        assert start == max(below, default=-1.0)


def test_the_smallest_network_that_is_good_enough():
    train = Trainings()
    found = train_to_drop(train, 0.0, 98.0, 1e-5)
    best = 4e-5  # where the metric is 98
    assert found.metric >= 98.0 and best / 1.3 <= found.multiplier <= best
    assert len(train.calls) <= 6


def test_from_a_first_multiplier_that_is_too_high():
    train = Trainings()
    found = train_to_drop(train, 0.0, 98.9, 1e-5, attempts=8)
    assert found.metric >= 98.9 and found.multiplier <= 4e-7


def test_none_where_nothing_meets_the_budget():
    train = Trainings(overhead=5000)
    assert train_to_size(train, 0.0, 1000, 1e-5, attempts=3) is None and len(train.calls) == 3
    assert train_to_drop(train, 0.0, 100.0, 1e-5, attempts=3) is None


@pytest.mark.parametrize(("first", "attempts"), [(0.0, 3), (math.inf, 3), (1e-5, 0)])
def test_bad_numbers(first, attempts):
    for search, budget in ((train_to_size, 1000), (train_to_drop, 98.0)):
        with pytest.raises(UsageError, match="positive"):
            search(Trainings(), 0.0, budget, first, attempts=attempts)
    with pytest.raises(UsageError, match="max_bytes"):
        train_to_size(Trainings(), 0.0, 0, 1e-5)
