"""What networks cost, against sums done by hand."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from tersor.costs import costs, effective_parameters, measure_latency
from tersor.errors import CalibrationError, UsageError


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Only(nn.Module):
    """The first of a tuple."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)[0]


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(3, 5), (2, 3), 2 * 15),
        (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 8, 8), 2 * 36 * 8 * 18),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), (1, 3, 5, 5), 25 * 3 * 4 * 9),
        (Only(nn.LSTM(10, 20, 2, batch_first=True)), (3, 7, 10), 3 * 7 * (80 * 30 + 80 * 40)),
        (Only(nn.GRU(10, 20, bidirectional=True)), (7, 3, 10), 3 * 7 * 60 * 30 * 2),
        (Only(nn.LSTM(10, 20, proj_size=5)), (7, 3, 10), 3 * 7 * (80 * 15 + 20 * 5)),
        (
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
            (2, 5, 16),
            10 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 2 * 25 * 16,
        ),
    ],
)
def test_macs(model, shape, macs):
    x = torch.randn(shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    assert costs(model, (x,)).macs == macs
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_count_ties_once_and_zeros_not():
    model = Tied()
    with torch.no_grad():
        model.embedding.weight[:2] = 0
    found = costs(model, kwargs={"tokens": torch.arange(3)})
    assert (found.parameters, found.nonzeros, found.macs) == (28, 20, 3 * 28)
    assert found.density == 20 / 28 and found.to_dict()["density"] == 20 / 28


def test_parametrized_weights_count_as_what_they_compute():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = nn.Sequential(weight_norm(nn.Linear(3, 5)), nn.Linear(5, 2))
    parametrize.register_parametrization(model[1], "bias", Double())
    assert costs(model).parameters == 20 + 12
    found = dict(effective_parameters(model))
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert torch.equal(found["1.bias"], model[1].bias)


def test_latency_is_asked_for():
    model, x = nn.Linear(3, 5), torch.randn(1, 3)
    assert costs(model, (x,)).latency is None
    assert costs(model, (x,), latency=True, runs=3).latency > 0
    assert costs(model).macs is None
    with pytest.raises(UsageError, match="example inputs"):
        costs(model, latency=True)
    with pytest.raises(UsageError, match="runs"):
        measure_latency(model, (x,), runs=0)


def test_inputs_that_do_not_run():
    with pytest.raises(CalibrationError, match=r"example inputs.*RuntimeError"):
        costs(nn.Linear(3, 5), (torch.randn(1, 4),))
