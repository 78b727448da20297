"""A network made ready: what is found out once must be what each layer would find by itself."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from tersor.calibration import cross_validate
from tersor.posttraining import Calibrate, prepare
from tersor.work import Work


class Attention(nn.Module):
    """Two layers that take in the same, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.out = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.query(x) * self.key(x).repeat(1, 2)).relu())


def test_layers_with_the_same_inputs_are_cross_validated_once(monkeypatch) -> None:
    torch.manual_seed(0)
    asked = []

    def counted(first, second, least):
        asked.append(first.shape)
        return cross_validate(first, second, least)

    monkeypatch.setattr(sys.modules["tersor.posttraining.network"], "cross_validate", counted)
    found = prepare(Attention(), list(torch.randn(4, 16, 6)), Calibrate(), Work(None, b""))
    assert asked == [(8, 6), (5, 8)]
    assert found.trust["query.weight"] == found.trust["key.weight"] != found.trust["out.weight"]
