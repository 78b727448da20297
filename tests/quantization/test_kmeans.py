from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.quantization.kmeans import kmeans
from tests.twins.kmeans import optimal_sse, optimal_sse_of_many

RNG = np.random.default_rng(0)
LARGE = 120_000  # more distinct values than are searched at once

few_values = st.lists(st.floats(-100, 100, width=32) | st.integers(-3, 3).map(float), min_size=1, max_size=24)


def check(result, values, weights=None):
    """What holds for every clustering: shapes, order, nearest centroids, the error that is claimed."""
    assert result.centroids.dtype == np.float32 and result.codes.dtype == np.uint8
    assert np.all(np.diff(result.centroids) > 0)
    assert result.codes.shape == values.shape
    x, c = values.astype(np.float64), result.centroids.astype(np.float64)
    w = np.ones_like(x) if weights is None else weights.astype(np.float64)
    sse = (w * (x - c[result.codes]) ** 2).sum()
    assert result.sse == pytest.approx(sse, rel=1e-12, abs=1e-30)


@settings(deadline=None, max_examples=80)
@given(few_values, st.integers(1, 8))
def test_exact_is_the_optimum_of_the_twin(values, k):
    x = np.array(values, np.float32)
    result = kmeans(x, k)
    check(result, x)
    assert len(result.centroids) == min(k, len(set(values)))
    assert result.sse == pytest.approx(optimal_sse(x, k), rel=1e-6, abs=1e-8)


@settings(deadline=None, max_examples=60)
@given(few_values, st.integers(1, 6), st.data())
def test_weighted_exact_is_the_optimum_of_the_twin(values, k, data):
    x = np.array(values, np.float32)
    weight = st.floats(0, 8, width=16)
    w = np.array(data.draw(st.lists(weight, min_size=len(x), max_size=len(x))), np.float32)
    w[0] = 1
    result = kmeans(x, k, weights=w)
    check(result, x, w)
    assert result.sse == pytest.approx(optimal_sse(x, k, w), rel=1e-6, abs=1e-8)


def assert_optimal(result, x, w, codes=None):
    """The error about means that are not rounded; the twin loses what double cannot hold of the sum of squares."""
    codes = result.codes if codes is None else codes
    y = x.astype(np.float64)
    means = np.bincount(codes, weights=w * y) / np.bincount(codes, weights=w)
    sse = (w * (y - means[codes]) ** 2).sum()
    k = len(result.centroids)
    rounding = 1e-13 * (w * (y - np.average(y, weights=w)) ** 2).sum()
    assert sse == pytest.approx(optimal_sse_of_many(x, k, w), rel=1e-9, abs=rounding)
    np.testing.assert_allclose(result.centroids, means, rtol=1e-6)


def large_samples():
    normal = RNG.normal(size=LARGE)
    outlier = normal.copy()
    outlier[7] = 1000
    return {
        "normal": normal,
        "laplace": RNG.laplace(size=LARGE),
        "outlier": outlier,
        "heavy tails": RNG.standard_t(2, size=LARGE),
        "clumps": RNG.choice([-3.0, -1.0, 0.5, 4.0], size=LARGE) + 0.01 * normal,
        "mostly zero": np.where(RNG.random(LARGE) < 0.5, 0, normal),
        "uniform": RNG.random(LARGE),
        "far from zero": 1000 + normal,
        "log-normal": np.exp(3 * normal),
        "one of other sign": np.concatenate([5 + normal[1:] / 10, [-1e-3]]),
    }


@pytest.mark.parametrize("name", large_samples())
def test_large_samples_reach_the_optimum_of_the_twin(name):
    x = large_samples()[name].astype(np.float32)
    result = kmeans(x, 16)
    check(result, x)
    assert result.proven
    assert_optimal(result, x, np.ones_like(x))


@pytest.mark.parametrize("name", ["normal", "heavy tails", "mostly zero"])
@pytest.mark.parametrize("k", [9, 40])
def test_large_weighted_samples_reach_the_optimum_of_the_twin(name, k):
    x = large_samples()[name].astype(np.float32)
    w = (RNG.random(LARGE) * (RNG.random(LARGE) < 0.9)).astype(np.float32)
    result = kmeans(x, k, weights=w)
    check(result, x, w)
    assert result.proven
    assert_optimal(result, x[w > 0], w[w > 0], result.codes[w > 0])


def test_the_twins_agree():
    x = RNG.normal(size=40).round(1).astype(np.float32)
    assert optimal_sse_of_many(x, 5) == pytest.approx(optimal_sse(x, 5), rel=1e-12)


def test_only_exact_is_proven():
    x = RNG.normal(size=100).astype(np.float32)
    assert kmeans(x, 4).proven
    assert not kmeans(x, 4, init="density").proven


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tails"])
def test_exact_is_not_worse_than_lloyd(name):
    x = large_samples()[name].astype(np.float32)
    best = kmeans(x, 16).sse
    for init in ("linear", "density", "random"):
        assert best <= kmeans(x, 16, init=init).sse * (1 + 1e-12)


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_lloyd_from_each_start_ends_at_a_fixed_point(init):
    x = RNG.normal(size=3000).astype(np.float32)
    result = kmeans(x, 8, init=init, iterations=10_000)
    check(result, x)
    means = [x[result.codes == j].astype(np.float64).mean() for j in range(len(result.centroids))]
    np.testing.assert_allclose(result.centroids, means, rtol=1e-6)
    nearest = np.abs(x[:, None] - result.centroids[None]).argmin(1)
    assert (nearest != result.codes).mean() < 1e-3
    assert kmeans(x, 8, init=init, iterations=1).sse > result.sse


def test_starts_differ_where_they_should():
    x = np.concatenate([np.zeros(90), [1, 2, 3, 4, 5, 6, 7, 8, 9, 100]]).astype(np.float32)
    assert kmeans(x, 2, init="linear", iterations=0).codes.sum() == 1  # only 100 is above the middle
    assert kmeans(x, 4, init="density", iterations=0).centroids.shape == (1,)  # the quantiles are all zero
    first, again = (kmeans(x, 4, init="random", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.codes, again.codes)
    noise = RNG.normal(size=1000).astype(np.float32)
    errors = {kmeans(noise, 8, init="random", seed=s, iterations=2).sse for s in range(8)}
    assert len(errors) > 1


@pytest.mark.parametrize("init", ["exact", "linear", "density", "random"])
def test_constant_and_single_values(init):
    for x in (np.full(1000, 0.1, np.float32), np.array([-2.5], np.float32)):
        result = kmeans(x, 16, init=init)
        np.testing.assert_array_equal(result.centroids, x[:1])
        assert result.sse == 0 and not result.codes.any()


def test_few_distinct_values_come_back_exactly():
    levels = np.array([-1.5, -0.0, 0.0, 1e-30, 0.25, 3e8], np.float32)
    x = RNG.choice(levels, size=50_000)
    result = kmeans(x, 256)
    assert result.sse == 0
    np.testing.assert_array_equal(result.centroids[result.codes], x)


def test_256_clusters():
    x = RNG.normal(size=LARGE).astype(np.float32)
    result = kmeans(x, 256)
    check(result, x)
    assert len(result.centroids) == 256 and result.codes.max() == 255
    assert result.sse < kmeans(x, 256, init="density").sse


def test_a_weight_is_a_repetition():
    x = RNG.normal(size=2000).astype(np.float32)
    counts = RNG.integers(0, 5, size=2000)
    weighted = kmeans(x, 8, weights=counts.astype(np.float32))
    repeated = kmeans(np.repeat(x, counts), 8)
    np.testing.assert_allclose(weighted.centroids, repeated.centroids, rtol=1e-6)
    assert weighted.sse == pytest.approx(repeated.sse, rel=1e-9)
    ones = kmeans(x, 8, weights=np.ones(2000, np.float32))
    np.testing.assert_array_equal(ones.codes, kmeans(x, 8).codes)


def test_tensors_and_order_of_values_make_no_difference():
    x = RNG.normal(size=40_000).astype(np.float32)
    result, shuffled = kmeans(torch.from_numpy(x), 16), kmeans(x[::-1], 16)
    np.testing.assert_array_equal(result.centroids, shuffled.centroids)
    np.testing.assert_array_equal(result.codes, shuffled.codes[::-1])


def test_same_bits_on_every_instruction_set():
    x = RNG.normal(size=LARGE).astype(np.float32)
    before, results = core.active_isa(), []
    try:
        for isa in ("scalar", core.detected_isa()):
            core.force_isa(isa)
            results.append(kmeans(x, 16))
    finally:
        core.force_isa(before)
    np.testing.assert_array_equal(results[0].centroids, results[1].centroids)
    np.testing.assert_array_equal(results[0].codes, results[1].codes)
    assert results[0].sse == results[1].sse


def test_wrong_arguments():
    x = np.ones(4, np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            kmeans(np.array([1, bad], np.float32), 2)
        with pytest.raises(ValueError, match="weights must be finite"):
            kmeans(x, 2, weights=np.array([1, 1, 1, bad], np.float32))
    for k in (0, 257):
        with pytest.raises(ValueError, match="1 to 256"):
            kmeans(x, k)
    with pytest.raises(ValueError, match="at least one value"):
        kmeans(x[:0], 2)
    with pytest.raises(ValueError, match="float32 vector"):
        kmeans(x.astype(np.float64), 2)
    with pytest.raises(ValueError, match="float32 vector"):
        kmeans(x.reshape(2, 2), 2)
    with pytest.raises(ValueError, match="4 values but 3 weights"):
        kmeans(x, 2, weights=x[:3])
    with pytest.raises(ValueError, match="not negative"):
        kmeans(x, 2, weights=-x)
    with pytest.raises(ValueError, match="positive"):
        kmeans(x, 2, weights=0 * x)
    with pytest.raises(ValueError, match="init must be"):
        kmeans(x, 2, init="best")
