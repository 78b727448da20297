import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tersor.errors import UsageError
from tersor.pruning import Schedule, drop_fraction, rounds
from tersor.pruning.schedules import KINDS

final = st.floats(0.01, 1)
steps = st.integers(1, 60)


def test_the_cubic_schedule_is_that_of_the_paper():
    begin, pruning_steps, every, sparse = 20, 10, 5, 0.9
    schedule = Schedule("cubic", begin=begin, end=begin + pruning_steps * every, every=every)
    for n in range(pruning_steps + 1):
        t = begin + n * every
        expected = sparse + (0 - sparse) * (1 - (t - begin) / (pruning_steps * every)) ** 3
        for step in range(t, t + every):
            assert schedule.density(step, 1 - sparse) == pytest.approx(1 - expected)
    assert schedule.density(0, 0.1) == 1.0


@example("cubic", 0, 1, 1, 0.9035372881923852, 0.3838885082792198)
@given(st.sampled_from(KINDS), st.integers(0, 30), steps, st.integers(1, 20), final, final)
def test_densities_fall_from_the_initial_to_the_final(kind, begin, length, every, first, second):
    initial, target = max(first, second), min(first, second)
    schedule = Schedule(kind, begin, begin + length, every)
    densities = [schedule.density(step, target, initial) for step in range(begin + length + 5)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(densities))
    assert densities[-1] == target and all(target <= d + 1e-12 and d <= initial for d in densities)
    if begin:
        assert densities[0] == initial
    for step in range(1, len(densities)):
        if not schedule.changes(step):
            assert densities[step] == pytest.approx(densities[step - 1], rel=1e-12)


def test_linear_and_geometric_halfway():
    assert Schedule("linear", 0, 10).density(5, 0.2) == pytest.approx(0.6)
    assert Schedule("geometric", 0, 10).density(5, 0.25) == pytest.approx(0.5)
    assert [Schedule("one_shot", 3).density(step, 0.3) for step in (2, 3)] == [1.0, 0.3]


@given(final, st.floats(0.05, 0.9))
def test_rounds_prune_the_same_share_of_what_is_left(target, share):
    densities = rounds(target, share)
    assert densities[-1] == target
    previous = 1.0
    for density in densities[:-1]:
        assert density == pytest.approx(previous * (1 - share)) and density > target
        previous = density
    assert previous * (1 - share) <= target * (1 + 1e-6)


def test_rounds_of_the_lottery_paper():
    assert rounds(0.8**3) == pytest.approx([0.8, 0.64, 0.512])


def test_the_share_that_is_regrown_falls_as_a_cosine():
    assert [drop_fraction(t, 100, 0.3) for t in (0, 50, 100, 150)] == pytest.approx([0.3, 0.15, 0, 0])
    assert drop_fraction(25, 100, 0.4) == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))


def test_schedules_travel_as_dictionaries():
    schedule = Schedule("geometric", 5, 50, 9)
    assert Schedule.from_dict(schedule.to_dict()) == schedule


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Schedule("square"),
        lambda: Schedule("cubic", 5, 5),
        lambda: Schedule("cubic", -1, 5),
        lambda: Schedule("cubic", 0, 5, 0),
        lambda: Schedule("linear", 0, 5).density(1, 0),
        lambda: Schedule("linear", 0, 5).density(1, 0.5, 0.4),
        lambda: rounds(0),
        lambda: rounds(0.5, 1),
        lambda: drop_fraction(0, 0),
        lambda: drop_fraction(-1, 5),
        lambda: drop_fraction(1, 5, 2),
    ],
)
def test_errors(wrong):
    with pytest.raises(UsageError):
        wrong()
