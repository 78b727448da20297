"""The benchmark of integer networks: its rows are arguments that are taken, and its scores those of the images."""

import pytest
import torch
from torch import nn

from benchmarks.int8 import ROWS, Bench, _Forgetful
from tests.integers.nets import mobile, pictures


@pytest.fixture
def bench():
    labels = mobile()(pictures(60)).argmax(1)
    images = pictures(60)
    labels[:10] += 1
    return Bench("small", mobile, (images[:20], labels[:20]), (images[20:], labels[20:]), [images[:20]], _Forgetful())


@pytest.mark.parametrize("name", ["entropy", "mse, biases left", "dynamic"])
def test_rows(bench, name):
    row = bench.row(name)
    assert row["layers"] == 5 and row["bytes"] > 0 and row["kl"] < 0.1
    assert set(ROWS) >= {"min-max", "percentile", "moving-average", "mse", "mse, 7 bits"}


def test_scores(bench):
    scores = bench.scores(bench.reference)
    assert scores["top1"] == {"choice": 50.0, "report": 100.0, "all": pytest.approx(250 / 3)} and scores["kl"] == 0.0
    worse = bench.scores(bench.outputs(nn.Sequential(nn.Flatten(), nn.Linear(108, 5))))
    assert worse["kl"] > 0 and torch.is_tensor(bench.reference)
