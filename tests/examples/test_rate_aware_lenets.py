"""The example runs as it stands, at small size."""

from __future__ import annotations

from examples import rate_aware_lenets


def test_short_run(few_digits, capsys):
    folder = few_digits(rate_aware_lenets)
    (result,) = rate_aware_lenets.main(["--short", "LeNet-300-100"])
    (goal,) = result["goals"]
    assert goal["bytes"]["mean"] <= goal["max_bytes"] and 0 <= goal["test"]["mean"] <= 100
    assert result["original_bytes"] == 4 * 266_610 and "LeNet-300-100, 1 seeds" in capsys.readouterr().out
    kept = sorted(path.name for path in folder.rglob("*.safetensors"))
    assert len(kept) >= 2
    assert rate_aware_lenets.main(["--short", "LeNet-300-100"]) == [result]  # from what was kept
    assert sorted(path.name for path in folder.rglob("*.safetensors")) == kept


def test_goals_are_those_to_be_reached():
    goals = {study.name: [(goal.max_bytes, goal.error) for goal in study.goals] for study in rate_aware_lenets.STUDIES}
    assert goals == {
        "LeNet-300-100": [(6500, None), (2400, 1.58), (2100, 1.9)],
        "LeNet-5": [(8000, None), (4000, 0.74), (1500, 1.0)],
    }
