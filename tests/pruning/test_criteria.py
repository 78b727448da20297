import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import UsageError
from tersor.pruning import (
    CHANNEL_CRITERIA,
    WEIGHT_CRITERIA,
    UnitEvidence,
    WeightEvidence,
    channel_criterion,
    weight_criterion,
)
from tersor.pruning.channel_criteria import activation_entropy, geometric_median
from tests.pruning import twins


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def weight_evidence():
    w, g = torch.randn(4, 6), torch.randn(4, 6)
    return WeightEvidence(w, g, (w * g).square(), torch.rand(1, 6) + 0.1, torch.rand(1, 6) + 0.1, seed=3)


def unit_evidence(units=5):
    rows = torch.randn(units, 8)
    return UnitEvidence(
        rows,
        torch.randn(units),
        torch.rand(units),
        torch.randn(40, units),
        torch.rand(units),
        torch.rand(units),
        torch.rand(units),
        torch.rand(units),
        seed=3,
    )


def test_weights_score_as_their_papers_say():
    e = weight_evidence()
    w, g = e.weight.double(), e.gradient.double()
    by_hand = {
        "l1": w.abs(),
        "l2": w**2,
        "wanda": w.abs() * e.moment.double() ** 0.5,
        "taylor": e.taylor.double(),
        "first_order": (w * g).abs(),
        "obs": w**2 / e.inverse.double() / 2,
    }
    assert set(by_hand) | {"random"} == set(WEIGHT_CRITERIA)
    for name, expected in by_hand.items():
        torch.testing.assert_close(weight_criterion(name).score(e).double(), expected, rtol=1e-6, atol=0)


def test_channels_score_as_their_papers_say():
    e = unit_evidence()
    rows = e.rows.double()
    by_hand = {
        "l1": [sum(abs(v) for v in row) for row in rows.tolist()],
        "l2": [sum(v * v for v in row) ** 0.5 for row in rows.tolist()],
        "geometric_median": [sum(float((a - b).norm()) for b in rows) for a in rows],
        "bn_scale": e.scales.abs().tolist(),
        "entropy": twins.entropy(e.pooled.double().numpy(), 100).tolist(),
        "apoz": (1 - e.idle.double()).tolist(),
        "mean_activation": e.mean.tolist(),
        "taylor": e.gate.tolist(),
        "fisher": (e.gate_square / 2).tolist(),
        "taylor_weights": e.weight_gate.tolist(),
    }
    assert set(by_hand) | {"random"} == set(CHANNEL_CRITERIA)
    for name, expected in by_hand.items():
        assert channel_criterion(name).score(e).tolist() == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize(("known", "evidence"), [(WEIGHT_CRITERIA, weight_evidence), (CHANNEL_CRITERIA, unit_evidence)])
def test_random_is_a_seeded_control(known, evidence):
    score = known["random"].score
    first = evidence()
    assert torch.equal(score(first), score(evidence()))
    assert not torch.equal(score(first), score(type(first)(**{**vars(first), "seed": 4})))
    state = torch.get_rng_state()
    score(first)
    assert torch.equal(state, torch.get_rng_state())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**31))
def test_entropy_is_that_of_the_histogram(samples, units, bins, seed):
    pooled = np.random.default_rng(seed).integers(0, 8, (samples, units)) / 8
    got = activation_entropy(torch.from_numpy(pooled), bins)
    assert (got >= 0).all() and (got <= np.log(bins) + 1e-12).all()
    centred = pooled + np.random.default_rng(seed).random((samples, units))  # off the bins' edges
    np.testing.assert_allclose(
        activation_entropy(torch.from_numpy(centred), bins), twins.entropy(centred, bins), atol=1e-9
    )


def test_what_never_changes_has_no_entropy():
    assert activation_entropy(torch.full((9, 2), 3.0)).tolist() == [0, 0]
    assert activation_entropy(torch.arange(4.0)[:, None], 4).tolist() == pytest.approx([np.log(4)])


def test_the_replaceable_filter_is_nearest_to_the_median():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    assert int(geometric_median(rows).argmin()) == 0


@pytest.mark.parametrize("name", [name for name, c in WEIGHT_CRITERIA.items() if not c.data_free])
def test_what_is_missing_is_named_of_weights(name):
    with pytest.raises(UsageError, match=f"'{name}' needs .*calibration"):
        weight_criterion(name).score(WeightEvidence(torch.ones(2, 3)))


@pytest.mark.parametrize("name", [name for name, c in CHANNEL_CRITERIA.items() if c.needs != ("weights",)])
def test_what_is_missing_is_named_of_channels(name):
    with pytest.raises(UsageError, match=f"'{name}' needs .*(calibration|batch norm)"):
        channel_criterion(name).score(UnitEvidence(torch.ones(2, 3)))


@pytest.mark.parametrize("find", [weight_criterion, channel_criterion])
@pytest.mark.parametrize("name", ["l3", None, 3, ""])
def test_unknown_criteria_are_refused_with_a_list(find, name):
    with pytest.raises(UsageError, match=r"l1 \(weights\).*random.*taylor"):
        find(name)


def test_entropy_refuses_nothing_to_count():
    with pytest.raises(UsageError, match="one bin and one sample"):
        activation_entropy(torch.zeros(0, 3))
    with pytest.raises(UsageError, match="one bin"):
        activation_entropy(torch.zeros(3, 3), 0)
