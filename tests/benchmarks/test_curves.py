"""Reading size/accuracy curves."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.curves import bytes_at, envelope, mean_curve, ratio_at

points = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 100)), min_size=1)


def test_reads_between_points_linearly_in_log_bytes() -> None:
    assert bytes_at([(400, 80.0), (100, 70.0)], 76.0, 1.0) == pytest.approx(200)
    assert bytes_at([(400, 80.0), (100, 70.0)], 80.0, 0.0) == pytest.approx(400)


@pytest.mark.parametrize("drop", [-1.0, 10.5])
def test_says_nothing_outside_the_curve(drop: float) -> None:
    assert bytes_at([(400, 80.0), (100, 70.0)], 80.0, drop) is None


def test_a_larger_file_that_is_worse_does_not_count() -> None:
    curve = [(100, 70.0), (200, 69.0), (300, 69.9), (400, 80.0)]
    assert envelope(curve) == [(100, 70.0), (400, 80.0)]
    assert bytes_at(curve, 75.0, 0.0) == pytest.approx(200)


@given(points)
def test_envelope_rises_and_holds_the_best_of_each_size(curve: list[tuple[int, int]]) -> None:
    best = envelope(curve)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(best))
    for size, accuracy in curve:
        assert max(a for s, a in best if s <= size) >= accuracy


def test_draws_are_averaged_rate_by_rate() -> None:
    curve = mean_curve([[(100, 70.0), (400, 80.0)], [(400, 72.0), (100, 82.0)]])
    assert [(round(size), accuracy) for size, accuracy in curve] == [(200, 71.0), (200, 81.0)]
    with pytest.raises(ValueError, match="each rate"):
        mean_curve([[(100, 70.0), (400, 80.0)], [(400, 72.0)]])


@given(st.floats(0.1, 10))
def test_ratio_of_a_scaled_curve_is_its_scale(scale: float) -> None:
    theirs = [(100.0, 70.0), (200.0, 75.0), (500.0, 80.0)]
    ours = [(scale * size, accuracy) for size, accuracy in theirs]
    ratio = ratio_at(ours, theirs, 80.0, 3.0)
    assert ratio is not None
    assert math.isclose(ratio, scale, rel_tol=1e-9)
    assert ratio_at(ours, theirs, 90.0, 3.0) is None
