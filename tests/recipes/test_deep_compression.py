"""Deep Compression in one call: what each stage does, and that the file is the network."""

import copy
import io
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersor
from tersor.errors import CalibrationError, UsageError
from tersor.recipes import deep_compression, paper_recipe
from tersor.shrinking import Iterative
from tersor.tensors import Codebook


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(96, 4)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def task():
    """(trained network, images, labels): each class is a bright row."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    images = torch.randn(64, 1, 6, 6) / 2
    images[torch.arange(64), 0, labels + 1] += 1
    network = Network()
    steps(network, images, labels, 40)
    return network.eval(), images, labels


def steps(model, images, labels, count, rate=0.01):
    optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=1e-3)
    model.train()
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def judge(task):
    @torch.no_grad()
    def evaluate(model):
        return -float(F.cross_entropy(model(task[1]), task[2]))

    return evaluate


RECIPE = tersor.Recipe(
    [
        tersor.Rule("*", tersor.Palettize(bits=2), tersor.Prune(density=0.25)),
        tersor.Rule("conv.weight", tersor.Palettize(bits=3)),
    ]
)


def test_stages_and_file(task, tmp_path):
    network, images, labels = task
    before, rng, seen = copy.deepcopy(network.state_dict()), torch.get_rng_state(), []

    def train(model):
        seen.append(float((model.head.weight != 0).float().mean()))
        steps(model, images, labels, 8)

    watched = []
    found = deep_compression(
        network,
        train,
        judge(task),
        recipe=RECIPE,
        schedule=Iterative(steps=2),
        watch=lambda name, model: watched.append((name, judge(task)(model.eval()))),
    )
    assert torch.equal(rng, torch.get_rng_state()) and not network.training and not found.model.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    names = [stage.name for stage in found.stages]
    assert names == ["trained", "pruned, step 1 of 2", "pruned, step 2 of 2", "clustered", "centroids trained"]
    assert watched == [(stage.name, pytest.approx(stage.metric)) for stage in found.stages]
    assert [round(density, 2) for density in seen] == [0.5, 0.25, 0.25]
    assert all(stage.metric == pytest.approx(judge(task)(network)) for stage in found.stages[:1])
    assert found.stages[4].metric >= found.stages[3].metric
    assert found.stages[-1].metric == pytest.approx(judge(task)(found.model))

    tensors = {entry.name: entry.tensor for entry in found.compressed.entries}
    for name, bits, most in (("conv.weight", 3, 14), ("head.weight", 2, 96)):
        assert isinstance(tensors[name], Codebook) and tensors[name].bits == bits
        assert int(tensors[name].mask.sum()) == most
        assert torch.equal(found.model.get_parameter(name), tensors[name].dequantize())
        assert len(found.model.get_parameter(name).unique()) <= 2**bits + 1
    sizes = tersor.save(found.compressed, tmp_path / "small.tsr")
    assert sizes.after == found.stages[-1].sizes["tersor"]
    assert tersor.save(found.compressed, io.BytesIO(), coder="huffman").after == found.stages[-1].sizes["huffman"]
    restored = tersor.load(tmp_path / "small.tsr")
    assert all(torch.equal(restored[name], value) for name, value in found.model.state_dict().items())
    again = Network()
    again.load_state_dict(found.model.state_dict())  # no parametrization is left


def test_every_stage_saves_bytes_and_every_coder(task):
    network, images, labels = task
    found = deep_compression(network, lambda m: steps(m, images, labels, 2), recipe=RECIPE, schedule=Iterative(steps=1))
    assert all(stage.metric is None for stage in found.stages)
    trained, pruned, clustered, learned = (stage.sizes for stage in found.stages)
    for coder in ("fixed", "huffman", "tersor"):
        assert trained[coder] > pruned[coder] > clustered[coder]
    for sizes in (pruned, clustered, learned):
        assert sizes["fixed"] >= sizes["huffman"] >= sizes["tersor"]
    report = found.report()
    assert len(report.splitlines()) == 6 and f"{learned['tersor']:,}" in report
    assert json.loads(json.dumps(found.to_dict()))["stages"][3]["sizes"] == learned


def test_centroids_that_got_worse_are_not_kept(task):
    network, images, labels = task

    def spoil(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)

    found = deep_compression(
        network,
        lambda m: steps(m, images, labels, 4),
        judge(task),
        recipe=RECIPE,
        schedule=Iterative(steps=1),
        train_centroids=spoil,
    )
    assert found.stages[-2].metric < found.stages[-3].metric == found.stages[-1].metric
    assert judge(task)(found.model) == pytest.approx(found.stages[-1].metric)
    assert any("k-means" in note for note in found.notes) and "k-means" in found.report()


def test_few_weights_get_few_centroids(task):
    network = task[0]
    recipe = paper_recipe(network, 0.05)
    found = deep_compression(network, lambda model: None, recipe=recipe, schedule=Iterative(steps=1))
    bits = {e.name: e.tensor.bits for e in found.compressed.entries if isinstance(e.tensor, Codebook)}
    assert bits["conv.weight"] < 8 and any("conv.weight" in note for note in found.notes)


def test_the_papers_bits(task):
    plan = paper_recipe(task[0], 0.2).plan(
        [tersor.recipe.TensorKey(n, tuple(p.shape), p.dtype) for n, p in task[0].named_parameters()]
    )
    assert plan["conv.weight"].representation.bits == 8 and plan["head.weight"].representation.bits == 5
    assert plan["conv.weight"].prune == plan["head.weight"].prune == tersor.Prune(density=0.2, scope="global")
    assert isinstance(plan["conv.bias"].representation, tersor.Lossless)
    assert len(paper_recipe(nn.Linear(2, 2)).rules) == 1


def test_errors(task):
    network = task[0]

    def fails(model):
        raise ValueError("no data")

    with pytest.raises(UsageError, match="train"):
        deep_compression(network, None)
    with pytest.raises(UsageError, match="evaluate"):
        deep_compression(network, fails, 3)
    with pytest.raises(UsageError, match=r"nn\.Module"):
        deep_compression({}, fails)
    for wrong in ({"watch": 3}, {"watch": "x"}, {"threads": float("nan")}, {"threads": "x"}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} (must be a function of a stage's name|is)"):
            deep_compression(network, fails, fails, **wrong)
    with pytest.raises(UsageError, match="clusters"):
        deep_compression(
            network, lambda m: None, recipe=tersor.Recipe([tersor.Rule("*", prune=tersor.Prune(density=0.5))])
        )
    with pytest.raises(CalibrationError, match="no data"):
        deep_compression(network, fails)
    with pytest.raises(CalibrationError, match=r"clustered network, raised ValueError: no data"):
        deep_compression(network, lambda m: None, train_centroids=fails, schedule=Iterative(steps=1))


def test_recipes_as_prepare_takes_them(task):
    network, _, _ = task
    rule = tersor.Rule("*", tersor.Palettize(bits=2), tersor.Prune(density=0.5))
    found = [
        deep_compression(network, lambda m: None, recipe=recipe, schedule=Iterative(steps=1)).stages[-1].sizes
        for recipe in (rule, [rule], tersor.Recipe([rule]))
    ]
    assert found[0] == found[1] == found[2]
    for wrong in (5, tersor.Palettize()):
        with pytest.raises(UsageError, match="a Recipe takes a list of Rules"):
            deep_compression(network, lambda m: None, recipe=wrong)
    for late in ({"schedule": tersor.Schedule(end=9)}, {"regrow": tersor.Regrow()}):
        both = tersor.Rule("*", tersor.Palettize(bits=2), tersor.Prune(density=0.5), **late)
        with pytest.raises(UsageError, match=rf"the rule for '\*' has a {next(iter(late))}, .*schedule=Iterative"):
            deep_compression(network, lambda m: None, recipe=both)
    with pytest.raises(UsageError, match=r"schedule must be Iterative\(steps=...\), got 3"):
        deep_compression(network, lambda m: None, schedule=3)
