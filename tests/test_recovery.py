"""Compressed networks that learn from the one they were made from."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import tersor
from tersor.container.writer import file_bytes
from tersor.errors import MismatchError, UsageError
from tersor.quantization import Palettize
from tersor.recipe import Recipe, Rule
from tersor.recovery import recover
from tersor.tensors import Codebook, Dense
from tersor.training import Recover

FAST = Recover(values=True, epochs=12, batch=32, lr=0.02, weight_lr=0.02)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(2)


def a_case():
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    rules = [
        Rule("*", tersor.Palettize(bits=2)),
        Rule("2.weight", tersor.Lossless(), tersor.Prune(density=0.4)),
        Rule("4.weight", tersor.Quantize(bits=3)),
    ]
    samples = list(torch.randn(256, 12).split(64))
    return model, tersor.compress(model, Recipe(rules)), samples


def distance(model, compressed, samples):
    student = copy.deepcopy(model)
    student.load_state_dict(compressed.state_dict())
    inputs = torch.cat(samples)
    with torch.no_grad():
        return float((student(inputs) - model(inputs)).square().mean())


def test_centroids_kept_weights_and_biases_learn_and_the_rest_stays():
    model, compressed, samples = a_case()
    before = copy.deepcopy(model.state_dict())
    found = recover(compressed, model, samples, FAST)
    assert distance(model, found, samples) < 0.6 * distance(model, compressed, samples)
    tensors, old = ({e.name: e.tensor for e in c.entries} for c in (found, compressed))
    assert torch.equal(tensors["0.weight"].codes, old["0.weight"].codes)
    assert isinstance(tensors["0.weight"], Codebook)
    assert not torch.equal(tensors["0.weight"].codebook, old["0.weight"].codebook)
    assert torch.equal(tensors["2.weight"].mask, old["2.weight"].mask) and isinstance(tensors["2.weight"], Dense)
    assert not torch.equal(tensors["2.weight"].dequantize(), old["2.weight"].dequantize())
    assert tensors["4.weight"] is old["4.weight"]
    assert not torch.equal(found.state_dict()["4.bias"], compressed.state_dict()["4.bias"])
    assert file_bytes(found.entries) <= file_bytes(compressed.entries) + 40
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_values_only_floats_learn():
    model, compressed, samples = a_case()
    found = recover(compressed, model, samples, replace(FAST, values=False))
    changed = {n for n, v in found.state_dict().items() if not torch.equal(v, compressed.state_dict()[n])}
    assert changed == {"0.bias", "2.bias", "4.bias"}


def test_tied_and_equal_tensors_stay_what_they_are():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.b.bias.data.copy_(self.a.bias.data)
            self.c.bias.data.zero_()

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))[:, :3]

    model = Tied()
    compressed = tersor.compress(model, Recipe([Rule("*", Palettize(bits=2))]))
    found = recover(compressed, model, [torch.randn(256, 6)], FAST)
    assert {e.name: e.tied_to for e in found.entries}["b.weight"] == "a.weight"
    state = found.state_dict()
    assert state["b.weight"] is state["a.weight"]
    assert not torch.equal(state["a.bias"], state["b.bias"])
    assert len(state["c.bias"].unique()) > 1, "a vector that happens to be all zeros is free, too"


def test_a_smaller_network_learns_from_the_larger_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    samples = [torch.randn(256, 8)]
    pruned = tersor.prune(model, tersor.PruneChannels(ratio=0.5), example_inputs=samples[0][:1]).finalize()
    compressed = tersor.compress(pruned, Recipe([Rule("*", Palettize(bits=3))]))
    with pytest.raises(MismatchError, match="as teacher"):
        recover(compressed, model, samples, FAST)
    found = recover(compressed, pruned, samples, FAST, teacher=model)
    student = copy.deepcopy(pruned)
    errors = []
    for one in (compressed, found):
        student.load_state_dict(one.state_dict())
        with torch.no_grad():
            errors.append(float((student(samples[0]) - model(samples[0])).square().mean()))
    assert errors[1] < 0.9 * errors[0]
    assert found.attachments == compressed.attachments


def test_arguments_of_wrong_types():
    model = nn.Linear(2, 2)
    compressed = tersor.compress(model)
    for arguments, says in (
        (("f.tsr", model, []), "compressed must be a CompressedModel, .*got str"),
        ((compressed, None, []), "model must be an nn.Module"),
        ((compressed, model, [], {}), r"options must be Recover"),
    ):
        with pytest.raises(UsageError, match=f"recover: {says}"):
            recover(*arguments)
