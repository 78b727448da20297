"""Observers: what range is found from values that came in batches."""

import copy

import pytest
import torch

from tersor.errors import CalibrationError, UsageError
from tersor.simulation.affine import affine
from tersor.simulation.histogram import Histogram
from tersor.simulation.observers import METHODS, Observe
from tersor.simulation.ranges import entropy_range, mse_range, percentile_range, squared_error


def batches(seed=0, count=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(200, generator=generator) * (k + 1) + k for k in range(count)]


def seen(options, values):
    observer = options.observer()
    for batch in values:
        assert observer(batch) is batch
    return observer


def test_histogram_counts_all_values_wherever_they_come():
    histogram = Histogram(64)
    values = [*batches(), torch.tensor([500.0]), torch.tensor([-3000.0])]
    for batch in values:
        histogram.add(batch, float(batch.min()), float(batch.max()))
    everything = torch.cat(values).double()
    assert float(histogram.counts.sum()) == everything.numel()
    assert float(histogram.sums.sum()) == pytest.approx(float(everything.sum()))
    edges = histogram.start + histogram.width * torch.arange(65)
    inside = [((everything >= edges[i]) & (everything < edges[i + 1])).sum() for i in range(64)]
    assert torch.equal(histogram.counts, torch.stack(inside).double())
    assert (float(histogram.smallest), float(histogram.largest)) == (-3000.0, 500.0)


def test_large_tensors_are_thinned_but_their_ends_are_kept():
    x = torch.rand(3, 1 << 20)
    x[1, 7] = 40.0
    observer = seen(Observe(method="percentile", percentile=100.0), [x])
    assert float(observer.histogram.counts.sum()) < x.numel() / 2
    assert float(observer.histogram.largest) == 40.0


@pytest.mark.parametrize("method", METHODS)
def test_state_resumes(method):
    options, values = Observe(method=method), batches()
    whole, first = seen(options, values), seen(options, values[:3])
    second = options.observer()
    second.load_state_dict(first.state_dict())
    for batch in values[3:]:
        second(batch)
    assert second.grid() == whole.grid() == copy.deepcopy(whole).grid()


def test_min_max_and_moving_average():
    values = [torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 4.0]), torch.tensor([-3.0, 1.0])]
    grid = seen(Observe(method="min-max"), values).grid()
    assert grid.scale * 255 == pytest.approx(7.0) and grid.zero == round(255 * 3 / 7)
    ends = seen(Observe(method="moving-average", momentum=0.5), values).ends.tolist()
    assert ends == pytest.approx([((-1 + 0.5) / 2 - 3) / 2, ((2 + 4) / 2 + 1) / 2])


def test_percentile_leaves_out_the_share():
    values, counts = torch.arange(1.0, 101.0).double(), torch.ones(100).double()
    assert percentile_range(values, counts, 87.5) == (1.0, 88.0)
    both = torch.arange(-50.0, 50.0).double()
    assert percentile_range(both, counts, 87.5) == (-44.0, 43.0)
    assert percentile_range(both, counts, 100.0) == (-50.0, 49.0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_no_worse_than_any_other_end(symmetric):
    values = torch.cat([torch.randn(500).double(), torch.tensor([30.0]).double()]).sort()[0]
    counts = torch.ones_like(values)
    found = squared_error(values, counts, affine(*mse_range(values, counts, 4, symmetric), 4, symmetric))
    for share in (1.0, 0.5, 0.2, 0.1):
        ends = (float(values[0]) * share, 30 * share)
        assert found <= squared_error(values, counts, affine(*ends, 4, symmetric)) + 1e-9


def test_entropy_is_not_misled_by_the_zeros_of_a_rectifier():
    observer = Observe(method="entropy").observer()
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    observer(values)
    grid = observer.grid()
    assert float((values > 255 * grid.scale).float().mean()) < 1e-3


def test_entropy_cuts_off_far_values_but_not_even_ones():
    tail = (1e5 * (-torch.arange(2048).double() / 40).exp()).floor()
    tail[2047] = 1.0
    low, high = entropy_range(tail, 0.0, 1 / 2048, 4)
    assert low == 0.0 and high < 0.5
    even = torch.full((2048,), 10.0).double()
    assert entropy_range(even, 0.0, 1 / 2048, 4)[1] > 0.9


def test_constants_and_zeros_have_a_grid():
    for method in METHODS:
        for value in (0.0, -3.0, 1e-30):
            grid = seen(Observe(method=method), [torch.full((5,), value)]).grid()
            back = grid.dequantize(grid.quantize(torch.tensor([value])))
            assert float(back) == pytest.approx(value, rel=0.02, abs=1e-25)


def test_errors():
    with pytest.raises(CalibrationError, match="nothing was observed"):
        Observe().observer().grid()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match="NaN or Inf"):
            Observe().observer()(torch.tensor([1.0, bad]))
    for wrong in ({"bits": 9}, {"bits": 1}, {"method": "max"}, {"percentile": 20.0}, {"momentum": 0.0}):
        with pytest.raises(UsageError, match="observe"):
            Observe(**wrong)
