"""Comparisons of our curves with nncodec's, on a toy network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks import calibrated
from benchmarks.calibrated import Row, compare, measure, show, uniform
from benchmarks.networks import Images, Judge, Network


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    images = torch.randn(50, 3, 8, 8)
    with torch.no_grad():
        labels = model(images).argmax(1)

    def data() -> Images:
        return images, labels

    def batches(seed: int) -> list[Tensor]:
        return [images[seed : seed + 10]]

    return Network("toy", lambda: copy.deepcopy(model), data, data, batches)


def test_judge_finds_the_float_network_equal_to_itself(network: Network) -> None:
    judge = Judge(network, network.test())
    assert judge.reference.top1 == 100
    again = judge(network.build())
    assert again.top1 == 100
    assert again.kl == pytest.approx(0, abs=1e-6)


def test_measures_each_rate_of_each_draw(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(calibrated.MODES, "uniform", (uniform, {"toy": (2, 8)}, 2))
    rows = measure("uniform", network, 1, Judge(network, network.test()))
    assert [(row["seed"], row["rate"]) for row in rows] == [(1, 2), (1, 8)]
    assert rows[0]["bytes"] < rows[1]["bytes"]
    assert rows[0]["kl"] > rows[1]["kl"]


def _ours(seed: int, size: int, top1: float) -> Row:
    return {"mode": "calibrated", "network": "ResNet-20", "seed": seed, "rate": size, "bytes": size, "top1": top1}


def _theirs(size: int, top1: float) -> Row:
    return {"curve": "best", "network": "ResNet-20", "bytes": size, "top1": top1}


def test_a_goal_is_met_by_the_mean_of_draws(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [_ours(0, 50, 86.0), _ours(0, 60, 89.0), _ours(1, 50, 87.0), _ours(1, 60, 90.0)]
    theirs = [_theirs(100, 86.5), _theirs(120, 89.5)]
    table = compare(ours, theirs, {"ResNet-20": 89.0})
    assert [(row["drop"], row["met"]) for row in table] == [(0.5, True), (1.0, True)]
    assert all(row["ratio"] == pytest.approx(0.5) for row in table)
    show(table)
    assert capsys.readouterr().out.count("0.500") == 2


def test_a_curve_that_does_not_reach_is_missed_not_guessed() -> None:
    ours = [_ours(0, 50, 80.0), _ours(0, 60, 81.0)]
    (first, _) = compare(ours, [_theirs(100, 86.5), _theirs(120, 89.5)], {"ResNet-20": 89.0})
    assert first["ratio"] is None
    assert not first["met"]


def test_a_curve_that_ends_above_the_limit_bounds_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [_ours(0, 50, 88.6), _ours(0, 60, 88.9)]
    table = compare(ours, [_theirs(100, 87.5), _theirs(120, 89.0)], {"ResNet-20": 89.0})
    assert [(round(row["ours"]), row["at_most"]) for row in table] == [(50, True), (50, True)]
    show(table)
    assert f"<{50 / table[0]['nncodec']:.3f}" in capsys.readouterr().out
