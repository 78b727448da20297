"""Distance of a network's outputs from a reference: against torch, and against predictions from statistics."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.calibration.collect import collect
from tersor.calibration.divergence import divergence, reference_outputs
from tersor.calibration.feedback import output_error
from tersor.errors import CalibrationError, UsageError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def nudged(model, scale=0.02):
    student = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += scale * torch.randn_like(parameter)
    return student


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, tokens):
        return {"logits": self.head(self.table(tokens))}


def test_classes():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5)).train()
    student, x = nudged(model).train(), torch.randn(10, 4)
    with torch.no_grad():
        p, q = (m.eval()(x).log_softmax(1) for m in (model, student))
    model.train()
    got = divergence(model, student, [x[:6], x[6:]])
    assert got == pytest.approx(float(F.kl_div(q, p, reduction="batchmean", log_target=True)), rel=1e-3)
    assert model.training and divergence(model, model, [x]) == 0


def test_tokens_and_pixels_are_summed_within_a_sample():
    model, tokens = Tokens(), torch.randint(9, (4, 3))
    student = nudged(model, 0.3)
    by_token = [divergence(model, student, [tokens[:, i : i + 1]]) for i in range(3)]
    assert divergence(model, student, [tokens]) == pytest.approx(sum(by_token), rel=1e-5)
    net = nn.Conv2d(2, 3, 1)
    x = torch.randn(4, 2, 2, 2)
    rows = x.movedim(1, 3).reshape(-1, 2, 1, 1)
    assert divergence(net, nudged(net), [x]) > 0
    student = nudged(net)
    assert divergence(net, student, [x]) == pytest.approx(4 * divergence(net, student, [rows]), rel=1e-5)


def test_outputs_that_are_no_classes():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    student, x = nudged(model), torch.randn(6, 4)
    expected = float((model(x) - student(x)).square().sum()) / 2 / 6
    assert divergence(model, student, [x]) == pytest.approx(expected, rel=1e-4)
    heads = nn.Linear(4, 3)
    student = nudged(heads)
    reference = reference_outputs(heads, [x], classes=False)
    assert divergence(reference, student, [x]) == pytest.approx(
        float((heads(x) - student(x)).square().sum()) / 2 / 6, rel=1e-4
    )


def test_it_is_the_predicted_loss():
    """Sum of G_r e_r / 2 of a network's last layer, whose Fisher matrix has nearly the assumed form."""
    model = nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        model.weight *= 0.1
    x = torch.randn(4000, 6)
    statistics = collect(model, [x], fisher=True)["weight"]
    ratios = []
    for _ in range(20):
        student = nudged(model, 0.05)
        error = output_error(model.weight, student.weight, statistics)
        predicted = float((statistics.row_weights() * error).sum()) / 2
        ratios.append(divergence(model, student, [x]) / predicted)
    # Rows are not independent: softmax does not see what all outputs share, a fifth of the error.
    assert sum(ratios) / len(ratios) == pytest.approx(1, rel=0.2)


def test_a_reference_is_limited():
    model, x = nn.Linear(4, 5), [torch.randn(6, 4) for _ in range(5)]
    assert reference_outputs(model, x).samples == (6,) * 5
    assert reference_outputs(model, x, limit=7).samples == (6, 6)
    assert reference_outputs(model, x, memory=6 * 5 * 4 * 3).samples == (6,) * 3
    assert reference_outputs(model, x, memory=1).samples == (6,)
    student = nudged(model)
    assert divergence(model, student, x, limit=6) == divergence(model, student, x[:1])


def test_a_student_may_fail():
    model, x = nn.Linear(4, 5), [torch.randn(6, 4)]
    student = copy.deepcopy(model)
    with torch.no_grad():
        student.bias[2] = math.nan
    assert divergence(model, student, x) == math.inf
    with torch.no_grad():
        student.bias[2] = -math.inf
    assert divergence(model, student, x) == math.inf
    # The other way round, a class that the model rules out has no part in the loss.
    assert math.isfinite(divergence(student, model, x))


def test_errors():
    model, x = nn.Linear(4, 5), [torch.randn(6, 4), torch.randn(6, 4)]
    reference = reference_outputs(model, x)
    with pytest.raises(CalibrationError, match="2 batches"):
        divergence(reference, model, x[:1])
    with pytest.raises(CalibrationError, match="shapes"):
        divergence(reference, nn.Linear(4, 6), x)
    with pytest.raises(UsageError, match="samples"):
        reference_outputs(model, [])
    with pytest.raises(UsageError, match="limit"):
        reference_outputs(model, x, limit=0)
    with pytest.raises(CalibrationError, match="NaN"):
        reference_outputs(model, [torch.full((2, 4), math.nan)])
