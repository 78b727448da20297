"""Trellis-coded quantization against its twin, brute force, and the gains of the literature."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.calibration.damping import Factor
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.errors import UsageError
from tests.twins import trellis as twin
from tests.twins.trellis_path import from_indices, to_indices


def random_factor(generator, groups, length):
    """Feedback of random positive definite matrices, strong enough to matter."""
    x = torch.randn(groups, length + 3, length, generator=generator, dtype=torch.float64)
    x[..., 1:] += 0.7 * x[..., :-1]
    h = x.transpose(1, 2) @ x / (length + 3) + 0.01 * torch.eye(length, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(h)).transpose(1, 2)
    scale = upper.diagonal(dim1=1, dim2=2).clone()
    return Factor(upper / scale[..., None], scale)


def _flat(length):
    return Factor(None, torch.ones(1, length, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 70)),
    states=st.sampled_from([1, 4, 8]),
    survivors=st.integers(1, 5),
    limit=st.sampled_from([4, 5, 6, 7, 9, 32767]),
    fed=st.booleans(),
    pruned=st.booleans(),
)
def test_codes_and_costs_are_the_twins(seed, shape, states, survivors, limit, fed, pruned):
    generator = torch.Generator().manual_seed(seed)
    groups, rows, length = shape
    weight = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    weight[torch.rand(shape, generator=generator) < 0.1] = 1.5  # ties
    factor = random_factor(generator, groups, length)
    if not fed:
        factor = Factor(None, factor.scale)
    steps = torch.rand(groups, rows, generator=generator, dtype=torch.float64) + 0.5
    mask = torch.rand(shape, generator=generator) < 0.7 if pruned else None
    trellis = Trellis(states, survivors, limit)
    values = (weight / steps[..., None]).float().numpy()
    feedback = factor.feedback.float().numpy() if fed else [None] * groups
    for isa in ("scalar", core.detected_isa()):
        core.force_isa(isa)
        codes, costs = trellis_codes(weight, steps, factor, trellis, mask=mask)
        for g, r in np.ndindex(groups, rows):
            kept = None if mask is None else mask[g, r].numpy()
            expected = twin.quantize_row(
                values[g, r], kept, feedback[g], factor.precision()[g].numpy(), states, survivors, limit
            )
            assert codes[g, r].tolist() == expected[0]
            assert float(costs[g, r]) == expected[1] * float(steps[g, r] ** 2)
    kept = None if mask is None else mask.reshape(-1, length).numpy()
    flat = codes.reshape(-1, length).numpy()
    indices, _ = to_indices(flat, states, kept)
    assert np.array_equal(from_indices(indices, states, kept), flat)


def test_long_rows_and_threads_change_nothing():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 40, 300, generator=generator, dtype=torch.float64)
    factor = random_factor(generator, 2, 300)
    steps = torch.full((2, 40), 0.3, dtype=torch.float64)
    results = []
    for isa, threads in itertools.product(("scalar", core.detected_isa()), (1, 3)):
        core.force_isa(isa)
        results.append(trellis_codes(weight, steps, factor, threads=threads))
    for codes, costs in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(costs, results[0][1])
    row, _ = twin.quantize_row(
        (weight[1, 7] / 0.3).float().numpy(),
        None,
        factor.feedback[1].float().numpy(),
        factor.precision()[1].numpy(),
        8,
        4,
        32767,
    )
    assert results[0][0][1, 7].tolist() == row


@pytest.mark.parametrize("states", [4, 8])
def test_without_feedback_the_search_is_exhaustive(states):
    """The Viterbi path is the best of all walks through the machine, over every integer near each weight."""
    generator = torch.Generator().manual_seed(states)
    for _ in range(10):
        weight = 2 * torch.randn(1, 1, 5, generator=generator, dtype=torch.float64)
        codes, cost = trellis_codes(weight, torch.ones(1, 1), _flat(5), Trellis(states, 1))
        best = min(_walks(weight.reshape(-1).tolist(), states))
        assert float(cost) == pytest.approx(best[0], rel=1e-5)
        assert codes.reshape(-1).tolist() == best[1]


def _walks(weight, states, state=0, cost=0.0, codes=()):
    if len(codes) == len(weight):
        yield cost, list(codes)
        return
    w = weight[len(codes)]
    even, odd, quantizer = twin.MACHINES[states][state]
    for k in range(-6, 7):
        q = twin.code(quantizer, k)
        if abs(q - w) <= 4.5:
            yield from _walks(weight, states, odd if k % 2 else even, cost + (w - q) ** 2, (*codes, q))


@pytest.mark.parametrize("states", [4, 8])
def test_with_survivors_for_all_the_search_tries_every_choice_of_parities(states):
    generator = torch.Generator().manual_seed(states)
    length = 6  # 2^6 paths; at most 16 of them end in one state
    for _ in range(5):
        weight = 2 * torch.randn(1, 1, length, generator=generator, dtype=torch.float64)
        factor = random_factor(generator, 1, length)
        _, cost = trellis_codes(weight, torch.ones(1, 1), factor, Trellis(states, 16))
        best = np.inf
        for parities in itertools.product((0, 1), repeat=length):
            state, total, residual = 0, 0.0, weight.reshape(-1).numpy().copy()
            for j, parity in enumerate(parities):
                q = twin.nearest(twin.MACHINES[states][state][2], parity, residual[j], 32767)
                error = residual[j] - q
                total += error**2 * float(factor.precision()[0, j])
                residual[j + 1 :] -= error * factor.feedback[0, j, j + 1 :].numpy()
                state = twin.MACHINES[states][state][parity]
            best = min(best, total)
        assert float(cost) == pytest.approx(best, rel=1e-4)


def test_the_cost_is_the_quadratic_form():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(1, 3, 50, generator=generator, dtype=torch.float64)
    factor = random_factor(generator, 1, 50)
    steps = torch.tensor([[0.1, 0.4, 1.0]], dtype=torch.float64)
    codes, costs = trellis_codes(weight, steps, factor)
    inverse = factor.feedback[0] * factor.scale[0][:, None]
    h = torch.linalg.inv(inverse.T @ inverse)
    error = weight[0] - steps[0][:, None] * codes[0]
    torch.testing.assert_close(costs[0], ((error @ h) * error).sum(1), rtol=1e-4, atol=1e-8)


def test_survivors_help_where_there_is_feedback():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 60, 120, generator=generator, dtype=torch.float64)
    factor = random_factor(generator, 1, 120)
    steps = torch.full((1, 60), 0.5, dtype=torch.float64)
    totals = [float(trellis_codes(weight, steps, factor, Trellis(8, s))[1].sum()) for s in (1, 2, 4, 8)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.97 * totals[0]


def _entropy(values):
    _, counts = np.unique(values, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


@pytest.mark.parametrize(("states", "gain"), [(4, 0.7), (8, 0.85)])
def test_gain_on_gaussian_data(states, gain):
    """dB of squared error at equal entropy (k given the quantizer) against a uniform grid, at about 3 bits."""
    w = torch.randn(1, 100, 600, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    codes, costs = trellis_codes(w, torch.full((1, 100), 0.3, dtype=torch.float64), _flat(600), Trellis(states, 1))
    k, before = to_indices(codes[0].numpy(), states)
    odd_grid = before % 2 == 1 if states == 8 else before >= 2
    share = odd_grid.mean()
    bits = share * _entropy(k[odd_grid]) + (1 - share) * _entropy(k[~odd_grid])
    curve = []
    for step in np.geomspace(0.3, 0.8, 30):
        q = np.rint(w.numpy() / step)
        curve.append((_entropy(q), 10 * np.log10(np.square(w.numpy() - step * q).mean())))
    scalar = np.interp(bits, *zip(*sorted(curve), strict=True))
    assert gain < scalar - 10 * np.log10(float(costs.sum()) / w.numel()) < 1.2


def test_bad_arguments():
    weight, factor = torch.zeros(1, 1, 3), _flat(3)
    for options in ({"states": 2}, {"survivors": 0}, {"survivors": 17}, {"limit": 3}, {"limit": 40000}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Trellis(**options)
    with pytest.raises(UsageError, match="finite"):
        trellis_codes(weight + float("inf"), torch.ones(1, 1), factor)
    with pytest.raises(ValueError, match="precision"):
        trellis_codes(weight, torch.ones(1, 1), _flat(4))
