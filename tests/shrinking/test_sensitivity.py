"""Curves of single layers, and budgets from them."""

import copy
import json
import sys

import pytest
import torch
from torch import nn

from tersor import Prune, Rule
from tersor.errors import CalibrationError, MissingExtraError, UsageError
from tersor.pruning import PruneChannels
from tersor.shrinking.prune import prune
from tersor.shrinking.sensitivity import LayerCurve, Sensitivity, sensitivity

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def distance(model):
    """A metric: minus the distance from the network as it is."""
    reference = model(X).detach()
    return lambda other: -(other(X) - reference).square().mean().item()


def curves(**points):
    """Losses by fraction, of layers of 100 numbers (a) and 300 (b)."""
    sizes = {"a": 100, "b": 300}
    layers = [LayerCurve(n, sizes[n], tuple((f, 1.0 - loss) for f, loss in p)) for n, p in points.items()]
    return Sensitivity(Prune(density=0.5), 1.0, tuple(layers))


def test_points_are_those_of_pruned_networks():
    model = build()
    state = copy.deepcopy(model.state_dict())
    evaluate = distance(model)
    found = sensitivity(model, evaluate, fractions=(0.8, 0.25))
    assert found.reference == 0 and [layer.name for layer in found.layers] == ["0.weight", "2.weight", "4.weight"]
    for layer in found.layers:
        assert [fraction for fraction, _ in layer.points] == [0.25, 0.8]
        for fraction, metric in layer.points:
            pruned = prune(model, Rule(layer.name, prune=Prune(density=1 - fraction)))
            assert metric == pytest.approx(evaluate(pruned.model), rel=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["size"] == 128
    assert "-80%" in str(found) and "2.weight" in str(found)


def test_criteria_with_samples_and_some_layers_only():
    model = build()
    found = sensitivity(
        model, distance(model), Prune(density=0.5, criterion="obs"), fractions=(0.5,), layers="2.*", calibration=[X]
    )
    plain = sensitivity(model, distance(model), fractions=(0.5,), layers=["2.*"])
    assert [layer.name for layer in found.layers] == ["2.weight"]
    assert plain.layers[0].points[0][1] < found.layers[0].points[0][1] < 0


def test_groups_of_channels():
    model = build()
    found = sensitivity(model, distance(model), PruneChannels(ratio=0.5), fractions=(0.25, 0.5), example_inputs=X[:1])
    assert [layer.name for layer in found.layers] == ["0.weight", "2.weight"]
    assert [layer.size for layer in found.layers] == [128 + 16 + 256, 256 + 16 + 48]
    for layer in found.layers:
        for fraction, metric in layer.points:
            pruned = prune(model, PruneChannels(ratio=fraction, match=layer.name), example_inputs=X[:1])
            assert metric == pytest.approx(distance(model)(pruned.model), rel=1e-4)
    for config in found.configs(0.7):
        assert isinstance(config, PruneChannels) and 0 < config.ratio < 1
    assert prune(model, found.configs(0.7), example_inputs=X[:1]).units


def test_densities_equalise_the_marginal_loss():
    found = curves(a=[(0.25, 0.1), (0.5, 0.4)], b=[(0.25, 0.1), (0.5, 0.9)])
    # Marginal losses: a 0.1/25, then 0.3/25; b 0.1/75, then 0.8/75.
    assert found.densities(1.0) == {"a": 1.0, "b": 1.0}
    assert found.densities(1 - 50 / 400) == {"a": 1.0, "b": pytest.approx(1 - 50 / 300)}
    assert found.densities(1 - 100 / 400) == {"a": 0.75, "b": 0.75}
    assert found.densities(1 - 150 / 400) == {"a": 0.75, "b": pytest.approx(1 - 125 / 300)}
    assert found.densities(0.5) == {"a": 0.5, "b": 0.5}
    with pytest.raises(UsageError, match=r"50\.0%.*40\.0%"):
        found.densities(0.4)


def test_bumps_of_curves_are_cut_off():
    found = curves(a=[(0.25, 0.3), (0.5, 0.2), (0.75, -0.1)], b=[(0.5, 0.01)])
    assert found.densities(1 - 75 / 400) == {"a": 0.25, "b": 1.0}


def test_no_other_densities_lose_less():
    torch.manual_seed(0)
    fractions = [0.2, 0.4, 0.6, 0.8]
    steps = {name: torch.rand(4).sort().values.cumsum(0) for name in ("a", "b")}
    found = curves(**{n: list(zip(fractions, s.tolist(), strict=True)) for n, s in steps.items()})

    def loss(name, density):
        xs, ys = [0.0, *fractions], [0.0, *steps[name].tolist()]
        at = min(max((1 - density) / 0.2, 0), 4)
        low = min(int(at), 3)
        assert xs[low] <= 1 - density + 1e-9
        return ys[low] + (at - low) * (ys[low + 1] - ys[low])

    best = found.densities(0.6)
    least = sum(loss(name, density) for name, density in best.items())
    for a in torch.linspace(0.2, 1, 41).tolist():
        b = (0.6 * 400 - 100 * a) / 300
        if 0.2 <= b <= 1:
            assert loss("a", a) + loss("b", b) >= least - 1e-9


def test_recipes_from_curves_meet_the_budget():
    model = build()
    found = sensitivity(model, distance(model), Prune(density=0.5, scope="global"), fractions=(0.3, 0.6, 0.9))
    pruned = prune(model, found.configs(0.4))
    kept = sum(int(mask.sum()) for mask in pruned.masks.values()) + 432 - sum(m.numel() for m in pruned.masks.values())
    assert kept == pytest.approx(0.4 * 432, abs=2)
    assert found.configs(1.0) == []


def test_plots(monkeypatch):
    drawn = []

    class Axes:
        def plot(self, x, y, **options):
            drawn.append((list(x), list(y), options["label"]))

        def __getattr__(self, name):
            return lambda *_: None

    axes, found = Axes(), curves(a=[(0.5, 0.25)])
    assert found.plot(axes) is axes and drawn == [([0.0, 0.5], [1.0, 0.75], "a")]
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        found.plot()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"config": 0.5}, UsageError, "config"),
        ({"config": Prune(threshold=0.1)}, UsageError, "density"),
        ({"config": Prune(pattern="2:4")}, UsageError, "density"),
        ({"fractions": ()}, UsageError, "fractions"),
        ({"fractions": (0.5, 1.0)}, UsageError, "fractions"),
        ({"layers": "9.*"}, UsageError, r"9\.\*.*0\.weight"),
        ({"config": PruneChannels(ratio=0.5)}, UsageError, "example_inputs"),
        ({"config": Prune(density=0.5, criterion="wanda")}, UsageError, "calibration"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        sensitivity(build(), lambda _: 0.0, **options)


def test_bad_metrics_and_targets():
    with pytest.raises(CalibrationError, match="evaluate of the model as it is"):
        sensitivity(build(), lambda _: None)
    values = iter([0.0, float("nan")])
    with pytest.raises(CalibrationError, match=r"evaluate with 10% of 0\.weight pruned"):
        sensitivity(build(), lambda _: next(values))
    for target in (0, 1.5, "half"):
        with pytest.raises(UsageError, match="target"):
            curves(a=[(0.5, 0.1)]).densities(target)
