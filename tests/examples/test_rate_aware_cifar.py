"""The example runs as it stands, at small size; its helpers change no network's function."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.sources import ResNetCifar
from benchmarks.training import seeded
from examples import rate_aware_cifar
from examples.loop import opened
from examples.rate_aware_cifar import (
    STEPS,
    STUDIES,
    Goal,
    Study,
    Tiny,
    balanced,
    begun,
    content,
    rules,
    trimmed,
)
from tersor.pruning import PruneChannels
from tersor.simulation import RateAware


def test_short_run(few_digits, capsys):
    folder = few_digits(rate_aware_cifar)
    (result,) = rate_aware_cifar.main(["--short"])
    assert [goal["times"] for goal in result["goals"]] == [6, 8]
    for goal in result["goals"]:
        assert goal["met"] and goal["bytes"]["mean"] * goal["times"] <= result["original_bytes"]
        assert goal["lost"]["mean"] == pytest.approx(goal["float_test"]["mean"] - goal["test"]["mean"])
    assert result["original_bytes"] == 4 * sum(p.numel() for p in Tiny().parameters())
    assert "Tiny" in capsys.readouterr().out
    kept = sorted(path.name for path in folder.rglob("*.safetensors"))
    assert len(kept) == 6 and not list(folder.rglob("*state"))
    assert rate_aware_cifar.main(["--short"]) == [result]  # from what was kept
    assert sorted(path.name for path in folder.rglob("*.safetensors")) == kept


def test_goals_are_those_to_be_reached():
    goals = {study.name: [(goal.times, goal.points) for goal in study.goals] for study in STUDIES}
    assert goals == {"ResNet-20": [(25, 0.5), (35, 0.5)], "VGG-16": [(120, 0.5), (250, 1.5)]}
    assert [study.original_bytes for study in STUDIES] == [1_078_888, 14_739_368]


def worked():
    """A small residual network whose batch norms have seen something, and pictures."""
    model = seeded(lambda: ResNetCifar(1), 0)
    images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1.0, 2.0, generator=torch.Generator().manual_seed(2))
                module.bias.normal_(generator=torch.Generator().manual_seed(3))
        for _ in range(3):
            model.train()(images)
    return model.eval(), images


def test_balanced_networks_compute_the_same():
    model, images = worked()
    with torch.no_grad():
        before = model(images)
        balanced(model, images)
        torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().square().mean().sqrt()) == pytest.approx(
                rate_aware_cifar.SIZE, rel=1e-4
            )


def test_the_file_gives_the_network_back():
    """Weights on grids come back as they were, in another order of channels; the network computes about the same."""
    study = Study(
        "small", lambda: ResNetCifar(1), lambda _: None, (Goal(2, 1),), STUDIES[0].plan, 1e-7, 0, vectors=1e-9
    )
    model, images = worked()
    steps = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                steps[name + STEPS] = (0.5 * parameter.square().mean().sqrt()).bfloat16().float()
                parameter.copy_((parameter / steps[name + STEPS]).round() * steps[name + STEPS])
        model.layer1[0].conv1.weight[5] = 0.0
    flat = {**model.state_dict(), **steps}
    size, again = opened(content(study, model, flat, images), study.build)
    with torch.no_grad():
        wanted, found = model(images), again(images)
    assert float((wanted - found).square().mean() / wanted.var()) < 1e-3
    name = "layer3.0.conv2.weight"
    assert torch.equal(*(network.get_parameter(name).detach().reshape(-1).sort().values for network in (model, again)))
    coarse, _ = opened(content(dataclasses.replace(study, vectors=1e-5), model, flat, images), study.build)
    assert size < study.original_bytes / 8 and coarse <= size


def test_channels_go_before_training_and_the_file_opens_in_the_original_class():
    study = dataclasses.replace(STUDIES[0], removed=PruneChannels(ratio=0.5, match=("layer3.0.conv1.weight",)))
    model, images = worked()
    start = begun(study, model, images)
    assert start.layer3[0].conv1.weight.shape[0] == model.layer3[0].conv1.weight.shape[0] // 2
    steps = {name + STEPS: torch.tensor(2.0**-9) for name, weight in start.named_parameters() if weight.dim() > 1}
    with torch.no_grad():
        for name, step in steps.items():
            weight = start.get_parameter(name.removesuffix(STEPS))
            weight.copy_((weight / step).round().clamp(-127, 127) * step)
    small = dataclasses.replace(study, vectors=1e-9)
    _, again = opened(content(small, start, {**start.state_dict(), **steps}, images), lambda: ResNetCifar(1))
    with torch.no_grad():
        wanted, found = start(images), again(images)
    assert float((wanted - found).square().mean() / wanted.var()) < 1e-3


def test_weights_nearest_to_zero_go_first():
    stored = torch.tensor([[0.2, 0.6, -0.7, 2.2], [1.1, -0.55, 0.1, 0.9]])
    flat = {"w": stored.round() * 0.5, "w|stored": stored * 0.5, "w|step": torch.tensor(0.5), "b": torch.ones(2)}
    found = trimmed(flat, 1 / 3)  # two of the six that are not zero
    assert torch.equal(found["w"], torch.tensor([[0.0, 0.0, -0.5, 1.0], [0.5, 0.0, 0.0, 0.5]]))
    assert torch.equal(found["b"], flat["b"]) and torch.equal(flat["w"], stored.round() * 0.5)


def test_rules_are_for_weights_alone():
    found = {rule.match: rule.train for rule in rules(Tiny(), 1e-6)}
    assert list(found) == ["features.0.weight", "features.3.weight", "linear.weight"]
    assert all(isinstance(config, RateAware) and config.multiplier == 1e-6 for config in found.values())


def test_a_warm_start_goes_on_from_learned_steps():
    model = seeded(Tiny, 0)
    steps = {
        name: torch.tensor(0.01 * (place + 1))
        for place, name in enumerate(("features.0.weight", "features.3.weight", "linear.weight"))
    }
    for rule in rules(model, 1e-6, steps):
        weight = model.get_parameter(rule.match).detach()
        simulation = rule.train.simulate(weight, rule.representation, None)
        assert float(simulation.log_step.detach().exp()) == pytest.approx(float(steps[rule.match]), rel=1e-4)
