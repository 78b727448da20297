"""The example's short version, and what its numbers are made of."""

import json

import pytest
import torch

from benchmarks.training import Plan, seeded
from examples import distillation
from examples.distillation import OMITTED, errors, learn, network


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    return tmp_path


def test_the_short_version(work):
    pytest.importorskip("sklearn")
    result = distillation.main(["--short"])
    assert json.loads(json.dumps(result)) is not None
    (row,) = result["students"]
    assert set(row["sweep"]) == {"1.0", "4.0"}
    assert row["sweep"][str(row["temperature"])] == min(row["sweep"].values())
    for arm in ("plain", "teacher", "ensemble"):
        assert 0 <= row["arms"][arm]["test"]["mean"] < 150, "half of the 300 test images at most"
    assert row["gain"]["teacher"] == row["arms"]["plain"]["test"]["mean"] - row["arms"]["teacher"]["test"]["mean"]
    (omitted,) = result["omitted"]
    plain, distilled = (omitted[arm]["as trained"] for arm in ("plain", "distilled"))
    assert plain["of the digit"] == plain["there"], "nobody told it of a 3"
    assert distilled["of the digit"] <= plain["of the digit"]
    for arm in ("plain", "distilled"):
        assert omitted[arm]["corrected"]["of the digit"] <= omitted[arm]["as trained"]["of the digit"]
    assert not (work.parent / "results").exists()


def test_a_raised_bias_only_helps_its_digit():
    outputs = torch.tensor([[0.0, 0, 0, -1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0.5, 2, 0, 0, 0, 0, 0]])
    raised = distillation._raised(outputs, 1.75)
    assert errors(raised, torch.tensor([4, OMITTED])) == 0
    assert errors(outputs, torch.tensor([4, OMITTED])) == 1
    others = torch.arange(10) != OMITTED
    assert torch.equal(raised[:, others], outputs[:, others])


def test_networks_have_the_papers_sizes():
    assert sum(p.numel() for p in network(1200, 0.2).parameters() if p.dim() == 2) == 1200 * (784 + 1200 + 10)
    kinds = [type(layer).__name__ for layer in network(8, 0.2)]
    assert kinds.count("Dropout") == 2 and "Dropout" not in [type(layer).__name__ for layer in network(8)]


def test_learning_is_reproducible():
    data = torch.randn(40, 1, 28, 28), torch.randint(10, (40,))
    state = torch.get_rng_state()
    one, other = (learn(seeded(lambda: network(4, 0.5), 0), data, Plan(2, 1e-2, 16), 5, jitter=True) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
