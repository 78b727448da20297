"""Diagnosis: bytes, errors and losses of layers alone, and what is said of them."""

import json
import math

import pytest
import torch
from torch import nn

from tersor.calibration.collect import collect
from tersor.calibration.divergence import divergence
from tersor.calibration.outcomes import NAMES, entropy, outcomes
from tersor.diagnosis import Candidate, Diagnosis, LayerDiagnosis, diagnose
from tersor.errors import CalibrationError, UsageError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(2)


def network():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ConvTranspose2d(6, 4, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(36, 5),
    )  # fmt: skip


def test_entropy():
    assert entropy(torch.tensor([[0, 1], [-3, 4]], dtype=torch.int8)) == 8
    assert entropy(torch.zeros(9)) == 0 and entropy(torch.zeros(0)) == 0
    assert entropy(torch.tensor([True, True, False, True])) == pytest.approx(4 * 0.8112781, rel=1e-6)


def test_outcomes_have_their_size_and_loss():
    layer, x = nn.Linear(40, 30, bias=False), torch.randn(500, 40) @ torch.randn(40, 40)
    statistics = collect(layer, [x], fisher=True)["weight"]
    found = {outcome.name: outcome for outcome in outcomes(layer.weight, [statistics])}
    assert tuple(found) == NAMES
    for bits in (8, 6, 5, 4, 3, 2):
        assert found[f"{bits} bits"].bits / 1200 == pytest.approx(bits, rel=0.1)
    assert found["binary"].bits / 1200 < 1.5
    moved = (x @ (layer.weight - found["4 bits"].weight).T).square().sum() / (x @ layer.weight.T).square().sum()
    assert found["4 bits"].error == pytest.approx(float(moved.detach()), rel=1e-3)
    losses = [found[f"{bits} bits"].loss for bits in (8, 6, 5, 4, 3, 2)]
    assert losses == sorted(losses) and losses[3] > 8 * losses[1] > 0
    assert found["16 values"].weight.unique().numel() <= 16 and found["ternary"].weight[0].unique().numel() <= 3


def test_layers_of_a_network():
    model, x = network(), [torch.randn(20, 2, 6, 6) for _ in range(4)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    found = diagnose(model, x, progress=lambda *step: seen.append(step))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {layer.name for layer in found.layers} == {"0.weight", "3.weight", "4.weight", "7.weight"}
    assert [step[0] for step in seen] == ["0.weight", "3.weight", "4.weight", "7.weight"]
    assert [step[1] for step in seen] == [108, 162, 258, 438] and {step[2] for step in seen} == {438}
    assert 4 * 438 + found.other_bytes == sum(t.nbytes for t in before.values())
    ranks = [layer.loss_per_byte for layer in found.layers]
    assert ranks == sorted(ranks, reverse=True) and ranks[-1] > 0
    assert found.metric is None and all(c.drop is None for layer in found.layers for c in layer.candidates)
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["candidates"][0]["name"] == "8 bits"
    text = str(found)
    assert "7.weight" in text and "16 values" in text and "drop" not in text


def test_predicted_loss_is_that_of_the_network():
    model, x = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)), torch.randn(600, 20)
    statistics = collect(model, [x], fisher=True)
    weight = model[0].weight.detach().clone()
    for outcome in outcomes(weight, [statistics["0.weight"]]):
        if outcome.name in ("5 bits", "4 bits", "3 bits"):
            student = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), model[2])
            student.load_state_dict({**model.state_dict(), "0.weight": outcome.weight})
            measured = divergence(model, student, [x])
            assert outcome.loss / 2.5 < measured < 2.5 * outcome.loss


def test_measured_drops():
    model, x = network(), [torch.randn(20, 2, 6, 6)]
    whole = torch.cat(x)

    def metric(candidate):
        with torch.no_grad():
            return -divergence(model, candidate, [whole])

    found = diagnose(model, x, metric, measure="2 bits")
    for layer in found.layers:
        assert layer.at("2 bits").drop > 0 and layer.at("4 bits").drop is None
    assert "drop at 2 bits" in str(found) and found.metric == pytest.approx(0, abs=1e-6)
    assert diagnose(model, x, metric, measure=True).layers[0].at("4 bits").drop is not None


def test_tied_and_unreached_weights():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.idle, self.head.weight = nn.Linear(4, 4), self.table.weight

        def forward(self, tokens):
            return self.head(self.table(tokens))

    found = diagnose(Language(), [torch.randint(7, (5, 6))])
    assert [(layer.name, layer.also) for layer in found.layers] == [("table.weight", ("head.weight",))]
    assert found.layers[0].bytes == 11 * 8 * 4 and found.other_bytes == 16
    assert found.unreached == ("idle.weight",) and "No sample reached idle.weight" in found.words()


def layer(name, size, four, three):
    candidates = tuple(Candidate(n, size // 8, 0.1, {"4 bits": four, "3 bits": three}.get(n, 0.0)) for n in NAMES)
    return LayerDiagnosis(name, (size,), size, candidates)


def test_words():
    layers = (layer("first", 40, 3.1, 12.0), layer("middle", 6960, 6.8, 27.0), layer("last", 3000, 0.1, 0.4))
    assert Diagnosis(layers, (), 0).words().splitlines() == [
        "first (0.4% of the bytes) causes 31% of the predicted loss at 4 bits: protect it.",
        "last holds 30% of the bytes, but 1.0% of the predicted loss at 3 bits: squeeze it.",
    ]
    assert "No layer stands out" in Diagnosis(layers[1:2], (), 0).words()
    assert Diagnosis((), (), 0).words() == ""


def test_errors():
    model, x = network(), [torch.randn(4, 2, 6, 6)]
    with pytest.raises(UsageError, match="evaluate"):
        diagnose(model, x, measure=True)
    with pytest.raises(UsageError, match="9 bits"):
        diagnose(model, x, lambda m: 1.0, measure="9 bits")
    with pytest.raises(UsageError, match="no layers"):
        diagnose(nn.Sequential(nn.LayerNorm(4)), [torch.randn(2, 4)])
    with pytest.raises(CalibrationError, match=r"model as it is.*nan"):
        diagnose(model, x, lambda m: math.nan, measure=True)

    def breaks(candidate, calls=[]):  # noqa: B006
        calls.append(candidate)
        return 1.0 if len(calls) == 1 else calls[99]

    with pytest.raises(CalibrationError, match=r"weight at 4 bits raised IndexError"):
        diagnose(model, x, breaks, measure=True)
