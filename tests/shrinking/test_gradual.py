"""Masks that shrink, and exchange weights, while a loop trains."""

import pytest
import torch
from torch import nn

from tersor import Prune, Recipe, Rule
from tersor.errors import UsageError
from tersor.pruning.schedules import Schedule
from tersor.shrinking.gradual import Gradual, Regrow, exchanged
from tersor.shrinking.holding import finalize, masks_of

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def steps(model, gradual, optimizer, count):
    changed = []
    for _ in range(count):
        optimizer.zero_grad()
        (model(X) - X[:, :4]).square().mean().backward()
        optimizer.step()
        changed.append(gradual.step())
    return changed


def test_density_follows_the_schedule():
    model, schedule = build(), Schedule("cubic", begin=2, end=8, every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    gradual = Gradual(model, Prune(density=0.2), schedule)
    before = masks_of(model)
    for step in range(1, 11):
        changed = steps(model, gradual, optimizer, 1)[0]
        masks = masks_of(model)
        assert changed == schedule.changes(step)
        assert gradual.density() == pytest.approx(schedule.density(step, 0.2), abs=0.02)
        assert all(bool((masks[name] <= before[name]).all()) for name in masks)
        before = masks
    assert gradual.density() == pytest.approx(0.2)
    finalize(model)
    assert int((model[0].weight != 0).sum()) == 12


def test_parameters_stay_for_an_optimizer_made_before():
    model = build()
    parameters = list(model.parameters())
    Gradual(model, Prune(density=0.2), Schedule(end=8))
    assert {id(p) for p in model.parameters()} == {id(p) for p in parameters}


def test_goes_on_as_if_never_stopped():
    schedule = Schedule("linear", end=6)

    def run(split):
        model = build()
        gradual = Gradual(model, Prune(density=0.2), schedule)
        steps(model, gradual, torch.optim.SGD(model.parameters(), lr=0.05), split)
        again = build(1)
        resumed = Gradual(again, Prune(density=0.2), schedule)
        again.load_state_dict(model.state_dict())
        resumed.load_state_dict(gradual.state_dict())
        steps(again, resumed, torch.optim.SGD(again.parameters(), lr=0.05), 8 - split)
        return again

    for a, b in zip(run(3).state_dict().values(), run(8).state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_layers_of_a_recipe_and_one_threshold_for_all():
    recipe = Recipe([Rule("0.weight", prune=Prune(density=0.1)), Rule("2.*", prune=Prune(density=0.5))])
    model = build()
    gradual = Gradual(model, recipe, Schedule("one_shot", begin=1))
    steps(model, gradual, torch.optim.SGD(model.parameters(), lr=0.05), 1)
    assert {name: int(mask.sum()) for name, mask in masks_of(model).items()} == {"0.weight": 6, "2.weight": 20}
    model = build()
    gradual = Gradual(model, Prune(density=0.3, scope="global"), Schedule("one_shot", begin=1))
    steps(model, gradual, torch.optim.SGD(model.parameters(), lr=0.05), 1)
    assert sum(int(mask.sum()) for mask in masks_of(model).values()) == 30


def test_exchange_drops_the_smallest_and_grows_by_gradient():
    weight = torch.tensor([[5.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    gradient = torch.tensor([[9.0, 0.1, 3.0], [9.0, -4.0, 0.0]])
    found = exchanged(weight, gradient, weight != 0, 0.4)
    assert found.tolist() == [[True, False, False], [True, True, False]]
    assert torch.equal(exchanged(weight, gradient, weight != 0, 0.1), weight != 0)


def test_regrowth_in_training():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    regrow = Regrow(share=0.5, every=2, end=7)
    gradual = Gradual(model, Prune(density=0.5), Schedule("one_shot", begin=1), regrow=regrow)
    assert steps(model, gradual, optimizer, 1) == [True]
    exchanges = 0
    for due in (True, False, True, False, True, False, False, False):
        before, count = masks_of(model)["0.weight"], gradual.density()
        assert steps(model, gradual, optimizer, 1) == [due]
        after = masks_of(model)["0.weight"]
        fresh = after & ~before
        assert gradual.density() == count and (due or torch.equal(before, after))
        assert (model[0].weight[fresh] == 0).all()
        exchanges += bool(fresh.any())
    assert exchanges


def test_regrowth_needs_gradients():
    gradual = Gradual(build(), Prune(density=0.5), Schedule(end=4), regrow=Regrow(every=1))
    with pytest.raises(UsageError, match=r"0\.weight.*gradient"):
        gradual.step()


def test_bad_arguments():
    with pytest.raises(UsageError, match=r"0\.weight.*density"):
        Gradual(build(), Prune(threshold=0.1), Schedule(end=4))
    with pytest.raises(UsageError, match=r"0\.weight.*pattern"):
        Gradual(build(), Prune(density=0.5, pattern="row"), Schedule(end=4), regrow=Regrow())
    with pytest.raises(UsageError, match=r"5\.\*"):
        Gradual(build(), Recipe([Rule("5.*", prune=Prune(density=0.5))]), Schedule(end=4))
    with pytest.raises(UsageError, match="share"):
        Regrow(share=0.0)
    gradual = Gradual(build(), Prune(density=0.5), Schedule(end=4))
    for state in ({}, {"steps": -1}, {"steps": 1, "more": 2}, None):
        with pytest.raises(UsageError, match="no state"):
            gradual.load_state_dict(state)
    finalize(gradual.model)
    with pytest.raises(UsageError, match=r"0\.weight.*mask"):
        gradual.step()
