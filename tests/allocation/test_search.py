from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.allocation import Budget, least_size, meet_size
from tersor.allocation.estimate import LayerSample, estimated_bytes
from tersor.errors import UsageError


@given(st.floats(1e3, 1e7), st.floats(0.5, 2), st.integers(0, 1000), st.floats(0.6, 3))
def test_sizes_are_met_although_the_estimate_is_wrong(
    weights: float, factor: float, overhead: int, slope: float
) -> None:
    def true(rate: float) -> int:
        return int(max(weights * (1 - slope * math.log2(rate) / 20), 0) + overhead)

    def guess(rate: float) -> float:
        return factor * max(weights * (1 - math.log2(rate) / 20), 0)

    target = int(weights / 2 + overhead)
    trials: list[float] = []

    def trial(rate: float) -> int:
        trials.append(rate)
        return true(rate)

    found = meet_size(trial, lambda size: size, guess, target, attempts=12)
    assert found is not None and 0.98 * target <= found <= target
    assert len(trials) <= 12


def test_no_size_below_a_floor() -> None:
    assert meet_size(lambda rate: 1000, lambda size: size, lambda rate: 100 / (1 + rate), 500) is None


@given(st.floats(1e-9, 1e3), st.floats(-3, 3))
def test_the_smallest_size_within_the_drop(limit: float, start: float) -> None:
    trials: list[float] = []

    def trial(rate: float) -> float:
        trials.append(rate)
        return rate

    found = least_size(
        trial, lambda r: 1000 - int(10 * math.log(r)), lambda r: r, limit * 10**start, limit, attempts=20
    )
    assert found is not None and limit / 4 <= found <= limit
    assert len(trials) <= 20


def test_wide_distributions_lose_a_bit_an_octave() -> None:
    import torch

    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    layer = LayerSample.of(weight, torch.full((64,), 0.5))
    sizes = [estimated_bytes([layer], 4.0**-k) * 8 / layer.count for k in range(14)]
    differences = [b - a for a, b in pairwise(sizes)]
    assert all(abs(d - 1) < 0.1 for d in differences[2:])
    assert abs(sizes[0] - 3.05) < 0.1  # log2(sqrt(2 pi e) / 0.5)


@pytest.mark.parametrize(
    "arguments", [{"max_bytes": 0}, {"bits": -1.0}, {"max_drop": math.nan}, {"bits": 2, "max_bytes": 3}]
)
def test_budgets_that_make_no_sense(arguments: dict) -> None:
    with pytest.raises(UsageError):
        Budget(**arguments)


def test_bits_are_those_of_the_file() -> None:
    assert Budget(bits=3).target_bytes(1000) == 375
    assert Budget(max_bytes=77).target_bytes(1000) == 77
    assert Budget(max_drop=1).target_bytes(1000) is None
