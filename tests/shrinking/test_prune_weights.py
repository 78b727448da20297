"""Weights pruned through `prune`: patterns, scopes, criteria, schedules, floors and what is refused."""

import copy
import json

import pytest
import torch
from torch import nn

from tersor import Prune, PruneChannels, Recipe, Rule, TersorWarning
from tersor.compress import compress
from tersor.errors import CalibrationError, UnsupportedTypeError, UsageError
from tersor.shrinking.holding import masks_of
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.prune import prune

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tanh(X @ torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@torch.no_grad()
def evaluate(model):
    return -(model(X) - Y).square().mean().item()


def tune(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (model(X) - Y).square().mean().backward()
        optimizer.step()


def labelled(model, batch):
    inputs, labels = batch
    return (model(inputs) - labels).square().mean()


def counts(found):
    return {name: int(mask.sum()) for name, mask in found.masks.items()}


def test_the_model_given_stays():
    model = build()
    before = copy.deepcopy(model.state_dict())
    found = prune(model, Prune(density=0.25), example_inputs=X[:1])
    assert found.model is not model and not masks_of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert counts(found) == {"0.weight": 32, "2.weight": 64, "4.weight": 12}
    assert found.before.nonzeros == 467 and found.after.nonzeros == 108 + 35
    assert found.before.macs == found.after.macs == 8 * 16 + 16 * 16 + 16 * 3
    plain = found.finalize()
    assert type(plain[0]) is nn.Linear and torch.equal(plain(X), found.model(X)) and masks_of(found.model)
    assert json.loads(json.dumps(found.to_dict()))["densities"]["0.weight"] == 0.25
    assert "25.00%" in found.report() and "nonzeros" in found.report()


def test_in_place_keeps_the_parameters():
    model = build()
    parameters = [id(parameter) for parameter in model.parameters()]
    found = prune(model, Prune(density=0.25), inplace=True)
    assert found.model is model and set(parameters) == {id(parameter) for parameter in model.parameters()}
    assert set(masks_of(model)) == {"0.weight", "2.weight", "4.weight"}


def test_recipes_and_lists_select_as_recipes_do():
    rules = [Rule("*", prune=Prune(density=0.5)), Rule("4.weight", prune=Prune(density=0.25, scope="channel"))]
    assert counts(prune(build(), Recipe(rules))) == {"0.weight": 64, "2.weight": 128, "4.weight": 12}
    assert counts(prune(build(), rules)) == counts(prune(build(), Recipe(rules)))
    two = prune(build(), [Prune(pattern="2:4"), Recipe([Rule("0.weight", prune=Prune(density=0.25))])])
    assert counts(two) == {"0.weight": 32, "2.weight": 128, "4.weight": 24}
    groups = two.masks["0.weight"].reshape(-1, 4).sum(1)
    assert int(groups.max()) <= 2  # what the first config pruned stays pruned
    with pytest.raises(UsageError, match=r"7\.\*"):
        prune(build(), Rule("7.*", prune=Prune(density=0.5)))


def test_global_scope_shares_one_threshold():
    model = build()
    with torch.no_grad():
        model[4].weight.mul_(1000)
    found = prune(model, Prune(density=0.2, scope="global"))
    assert sum(counts(found).values()) == round(0.2 * 432) and counts(found)["4.weight"] == 48
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
    with pytest.warns(TersorWarning, match=r"floors: 0\.weight \(13 more than its scores earn\)"):
        found = prune(model, Prune(density=0.2, scope="global", floor=0.1))
    assert counts(found)["0.weight"] == 13


def test_a_layer_keeps_a_floor_and_says_so():
    with pytest.warns(TersorWarning, match=r"floors: 4\.weight \(1 of 48, not to lose all\)"):
        found = prune(build(), Rule("4.weight", prune=Prune(density=0.001)))
    assert counts(found) == {"4.weight": 1} and found.notes
    with pytest.warns(TersorWarning, match=r"4\.weight \(1 of 48"):
        assert counts(prune(build(), Rule("4.weight", prune=Prune(threshold=100.0)))) == {"4.weight": 1}


def test_pruning_again_goes_on_from_the_masks():
    first = prune(build(), Prune(density=0.5, criterion="random", seed=1))
    second = prune(first.model, Prune(density=0.25, criterion="random", seed=2))
    assert counts(second)["2.weight"] == 64
    assert all(bool((second.masks[name] <= mask).all()) for name, mask in first.masks.items())
    assert counts(first)["2.weight"] == 128


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "first_order", "obs"])
def test_criteria_that_look_at_samples(criterion):
    model = build()
    with torch.no_grad():
        model[0].weight[:, 0] = 0.5  # large, but its input is always zero
    inputs = X.clone()
    inputs[:, 0] = 0
    if criterion == "first_order":
        found = prune(
            model,
            Prune(density=0.5, criterion=criterion),
            calibration=[(inputs, Y)],
            loss=lambda net, batch: (net(batch[0]) - batch[1]).square().mean(),
        )
    else:
        found = prune(model, Prune(density=0.5, criterion=criterion), calibration=[inputs])
    assert not found.masks["0.weight"][:, 0].any() and counts(found)["2.weight"] == 128
    assert found.before.macs is not None
    with pytest.raises(UsageError, match=rf"0\.weight.*{criterion}.*calibration"):
        prune(model, Prune(density=0.5, criterion=criterion))


def test_obs_makes_good_what_is_pruned():
    model = build()
    tune(model)
    errors = {}
    for criterion in ("l1", "obs"):
        found = prune(model, Prune(density=0.4, criterion=criterion), calibration=[X], repair=False)
        errors[criterion] = (found.model(X) - model(X)).square().mean().item()
        assert counts(found)["2.weight"] == 102
    assert errors["obs"] < 0.7 * errors["l1"]
    blocks = prune(model, Prune(density=0.5, criterion="obs", pattern="row"), calibration=[X])
    assert blocks.masks["2.weight"].all(1).sum() == 8


def test_repair_makes_good_what_any_criterion_prunes():
    model = build()
    tune(model)
    for config in (Prune(density=0.4), Prune(density=0.4, scope="global"), Prune(pattern="2:4", criterion="wanda")):
        plain, found = (prune(model, config, calibration=[X], repair=repair) for repair in (False, True))
        masks = found.masks
        assert all(torch.equal(mask, masks[name]) for name, mask in plain.masks.items())
        assert not any(found.finalize().get_parameter(name)[~mask].any() for name, mask in masks.items())
        far, near = ((each.model(X) - model(X)).square().mean().item() for each in (plain, found))
        assert near < 0.7 * far
        unasked = prune(model, config, calibration=[X])
        assert torch.equal(unasked.model(X), found.model(X))
        few = prune(model, config, calibration=[X], fine_tune=lambda network: None)
        assert config.criterion == "wanda" or torch.equal(few.model(X), plain.model(X))
    assert torch.equal(
        prune(model, Prune(density=0.4), calibration=[X[:63]]).model(X), prune(model, Prune(density=0.4)).model(X)
    )


def test_batch_norms_get_the_moments_that_they_see_without_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0](X)
        model.train()(3 * X + 1)
    smaller = prune(model, PruneChannels(ratio=0.5), calibration=[X]).model
    seen = smaller[0](X)
    assert torch.allclose(smaller[1].running_mean, seen.mean(0), atol=1e-5) and smaller.training
    assert torch.allclose(smaller[1].running_var, seen.var(0), atol=1e-5)
    plain = prune(model, PruneChannels(ratio=0.5), calibration=[X], repair=False).model
    assert not torch.allclose(plain[1].running_mean, seen.mean(0), atol=0.1)
    found = prune(model, Prune(density=0.5), calibration=[X]).model
    assert torch.equal(found[1].running_mean, model[1].running_mean)


def test_weights_that_nothing_computes_are_repaired_and_the_others_left():
    model = build()
    nn.utils.parametrizations.weight_norm(model[2])
    found = prune(model, Prune(density=0.5), calibration=[X], repair=True)
    assert found.masks["2.weight"].double().mean() == 0.5
    for repair, says in (("yes", "repair must be true"), (True, "repair needs calibration")):
        with pytest.raises(UsageError, match=says):
            prune(build(), Prune(density=0.5), repair=repair)


def test_obs_looks_at_the_samples_once():
    looked = []

    class Counted(nn.Sequential):
        def forward(self, x):
            looked.append(len(x))
            return super().forward(x)

    prune(Counted(*build()), Prune(density=0.5, criterion="obs"), calibration=[X], example_inputs=X[:1], repair=False)
    assert looked.count(len(X)) == 1


def test_fine_tuning_and_metrics():
    model = build()
    tune(model)
    found = prune(model, Prune(density=0.3), fine_tune=tune, evaluate=evaluate)
    (only,) = found.rounds
    assert found.metric_before == pytest.approx(evaluate(model))
    assert only.pruned_metric < only.metric == found.metric_after
    assert counts(found)["2.weight"] == 77 and (found.model[2].weight == 0).sum() == 256 - 77


def test_iterative_reaches_the_density_or_stops_at_a_target():
    model = build()
    found = prune(model, Prune(density=0.1), fine_tune=tune, schedule=Iterative(steps=4, path="linear"))
    assert [round(step.costs.nonzeros - 35) for step in found.rounds] == pytest.approx([335, 238, 140, 43], abs=2)
    assert counts(found)["2.weight"] == 26
    found = prune(model, Prune(density=0.1), schedule=Iterative(steps=4, path="linear", nonzeros=0.6))
    assert len(found.rounds) == 2 and found.after.nonzeros <= 0.6 * 467
    found = prune(model, Prune(density=0.1), schedule=Iterative(steps=2, bytes=0.9))
    assert found.after.bytes < 0.9 * found.before.bytes and len(found.rounds) == 1
    with pytest.warns(TersorWarning, match=r"not met after 2 steps.*nonzeros"):
        prune(model, Prune(density=0.5), schedule=Iterative(steps=2, nonzeros=0.3))


def test_iterative_goes_back_to_the_last_step_within_the_limit():
    model = build()
    tune(model)
    with pytest.warns(TersorWarning, match=r"step \d of 6 ended at a metric.*step \d of 6 is kept"):
        found = prune(
            model,
            Prune(density=0.02),
            fine_tune=tune,
            evaluate=evaluate,
            schedule=Iterative(steps=6, max_drop=0.02),
        )
    assert found.rounds[-1].metric < found.metric_before - 0.02 <= found.metric_after
    assert found.metric_after == found.rounds[-2].metric == pytest.approx(evaluate(found.model))
    assert found.after.nonzeros == found.rounds[-2].costs.nonzeros
    with pytest.warns(TersorWarning, match="the original is kept"):
        found = prune(
            model, Prune(density=0.01), evaluate=evaluate, schedule=Iterative(steps=1, max_drop=0.0), inplace=True
        )
    assert not found.masks and found.model is model


def test_layer_by_layer():
    model = build()
    tune(model)
    found = prune(model, Prune(density=0.3, scope="global"), fine_tune=tune, schedule=LayerByLayer())
    once = prune(model, Prune(density=0.3, scope="global"))
    assert [step.step for step in found.rounds] == ["0.weight", "2.weight", "4.weight"]
    assert counts(found) == counts(once)
    with pytest.warns(TersorWarning, match="is left as it was"):
        found = prune(model, Prune(density=0.02), evaluate=evaluate, schedule=LayerByLayer(max_drop=0.01))
    assert len(found.masks) < 3 and found.metric_after >= found.metric_before - 0.01


def test_sparse_networks_come_out_small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64))
    found = prune(model, Prune(density=0.05), measure=("bytes",))
    assert found.after.bytes < 0.08 * found.before.bytes
    for held in (found.model, found.finalize()):
        compressed = compress(held, lossless=True)
        state = compressed.state_dict()
        assert set(state) == set(model.state_dict())
        assert torch.equal(state["0.weight"], found.model[0].weight)


def test_latency_on_request():
    found = prune(build(), Prune(density=0.5), example_inputs=X[:1], measure=("latency",))
    assert found.before.latency > 0 and found.after.latency > 0 and "latency" in found.report()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"config": []}, UsageError, "empty"),
        ({"config": "l1"}, UsageError, "config"),
        ({"config": Recipe.default()}, UsageError, "no rule"),
        ({"measure": ("bytes", "joules")}, UsageError, "measure"),
        ({"measure": "bytes"}, UsageError, "measure"),
        ({"schedule": "iterative"}, UsageError, "schedule"),
        ({"schedule": Iterative(max_drop=0.1)}, UsageError, "evaluate"),
        ({"schedule": Iterative(macs=0.5)}, UsageError, "example_inputs"),
        ({"fine_tune": 3}, UsageError, "fine_tune"),
        ({"evaluate": lambda _: "good"}, CalibrationError, "evaluate"),
        ({"fine_tune": lambda _: 1 / 0}, CalibrationError, "fine_tune.*ZeroDivisionError"),
        ({"fine_tune": lambda _: build()}, UsageError, "another network"),
        ({"example_inputs": 3}, UsageError, "example_inputs"),
        ({"seed": "x"}, UsageError, "seed must be an integer"),
        ({"example_inputs": torch.randn(1, 5)}, CalibrationError, "example inputs.*RuntimeError"),
        ({"calibration": [X[:, :5]]}, CalibrationError, "^calibration: batch 0, .*RuntimeError"),
        ({"calibration": [(X, Y)]}, CalibrationError, "^calibration: batch 0, .*TypeError.*leave labels out"),
        ({"calibration": [X, "x"]}, UsageError, "^calibration: batch 1 is str"),
        (
            {"config": Prune(density=0.5, criterion="taylor"), "calibration": [(X, Y), X], "loss": labelled},
            CalibrationError,
            r"^calibration: batch 1, torch\.float32 \(\d+, 8\): the loss raised .*\(inputs, labels\)",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    model = build()
    with pytest.raises(error, match=message):
        prune(model, **{"config": Prune(density=0.5), **options})
    assert not masks_of(model)


def test_lazy_modules_are_told_to_be_called_first():
    for model, name in ((nn.Sequential(nn.LazyLinear(4)), "weight"), (nn.Sequential(nn.LazyBatchNorm1d()), "weight")):
        with pytest.raises(UnsupportedTypeError, match=rf"^0\.{name}: .*lazy; call the model once"):
            prune(model, Prune(density=0.5))
    normed = nn.Sequential(nn.Linear(8, 4), nn.LazyBatchNorm1d(affine=False))
    with pytest.raises(UnsupportedTypeError, match=r"^1\.running_mean: .*lazy; call the model once"):
        prune(normed, Prune(density=0.5))
    normed(X)
    assert prune(normed, Prune(density=0.5)).after.nonzeros < prune(normed, Prune(density=0.9)).after.nonzeros


def test_weights_that_are_not_finite_are_named():
    model = build()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(Exception, match=r"2\.weight"):
        prune(model, Prune(density=0.5))
    with pytest.raises(UsageError, match="Module"):
        prune({"weight": torch.ones(2, 2)}, Prune(density=0.5))
