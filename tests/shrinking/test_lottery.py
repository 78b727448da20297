"""The four arms on a task that takes moments."""

import json

import pytest
import torch
from torch import nn

from tersor import Prune, Recipe, Rule
from tersor.errors import UsageError
from tersor.shrinking.holding import masks_of
from tersor.shrinking.lottery import lottery

STEPS = 6
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :2].sum(1, keepdim=True)


def build(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 1))


class Training:
    """Counts what it was asked for, and remembers what networks began with."""

    def __init__(self):
        self.calls = []
        self.begun = []

    def __call__(self, model, seed, begin, end):
        self.calls.append((seed, begin, end))
        self.begun.append({name: value.clone() for name, value in model.state_dict().items()})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(begin, STEPS if end is None else end):
            optimizer.zero_grad()
            (model(X) - Y).square().mean().backward()
            optimizer.step()


def evaluate(model):
    return -(model(X) - Y).square().mean().item()


def test_rows_of_all_arms():
    found = lottery(build, Training(), evaluate, config=Prune(density=0.5), rounds=2, seeds=(0, 1))
    assert [(row.arm, row.density) for row in found.rows] == [
        ("dense", 1.0),
        *[(arm, pytest.approx(0.5)) for arm in ("ticket", "reinitialised", "scratch")],
        *[(arm, pytest.approx(0.25, abs=0.02)) for arm in ("ticket", "reinitialised", "scratch")],
    ]
    assert all(len(row.values) == 2 and row.std > 0 for row in found.rows)
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["arm"] == "dense"
    assert found.row("ticket", 0.26).density < 0.3 and "ticket" in str(found)
    again = lottery(build, Training(), evaluate, config=Prune(density=0.5), rounds=2, seeds=(0, 1))
    assert again == found


@pytest.mark.parametrize("rewind", [0, 2])
def test_tickets_go_back_to_early_weights(rewind):
    train = Training()
    lottery(build, train, evaluate, config=Prune(density=0.5), rounds=1, rewind=rewind, seeds=(3,), arms=("ticket",))
    early = build(3)
    if rewind:
        Training()(early, 3, 0, rewind)
    assert train.calls == ([(3, 0, 2)] if rewind else []) + 2 * [(3, rewind, None)]
    for begun in train.begun[-2:]:
        assert torch.equal(begun["0.parametrizations.weight.original"], early[0].weight)
    assert int(train.begun[-1]["0.parametrizations.weight.0.mask"].sum()) == 30


def test_controls_share_densities_but_not_weights():
    seen = {}

    def remember(model):
        seen[len(seen)] = (masks_of(model), model[0].bias.detach().clone())
        return 0.0

    lottery(build, lambda *_: None, remember, config=Prune(density=0.5), rounds=1, seeds=(0,))
    (_, dense), (ticket, kept), (reinitialised, other), (scratch, _) = seen.values()
    assert torch.equal(dense, kept) and not torch.equal(kept, other)
    for name, mask in ticket.items():
        assert torch.equal(mask, reinitialised[name]) and not torch.equal(mask, scratch[name])
        assert mask.sum() == scratch[name].sum()


def test_layers_at_their_own_rates_and_a_small_network():
    recipe = Recipe([Rule("*", prune=Prune(density=0.5)), Rule("2.weight", prune=Prune(density=0.9))])
    asked = []

    def small(dense, density, seed):
        asked.append((density, seed))
        return nn.Linear(6, 1)

    found = lottery(
        build, Training(), evaluate, config=recipe, rounds=2, seeds=(0,), arms=("ticket", "scratch"), small=small
    )
    assert [row.density for row in found.rows][1::2] == [39 / 70, 23 / 70]
    assert [density for density, _ in asked] == [39 / 70, 23 / 70]


def test_goes_on_after_an_interruption(tmp_path):
    folder, options = tmp_path / "work", {"config": Prune(density=0.5), "seeds": (0,), "arms": ("ticket",)}
    whole = lottery(build, Training(), evaluate, rounds=3, **options)
    first = lottery(build, Training(), evaluate, rounds=2, folder=folder, **options)
    train = Training()
    found = lottery(build, train, evaluate, rounds=3, folder=folder, **options)
    assert len(train.calls) == 1 and found == whole and found.rows[:3] == first.rows
    with pytest.raises(UsageError, match="another run"):
        lottery(build, train, evaluate, folder=folder, **{**options, "config": Prune(density=0.7)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rewind": -1}, "rewind"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"arms": ("tickets",)}, "arms"),
        ({"config": Prune(threshold=0.1)}, r"0\.weight.*density"),
        ({"config": Recipe([Rule("3.*", prune=Prune(density=0.5))])}, r"3\.\*"),
        ({"config": Prune(density=0.5, criterion="wanda")}, r"0\.weight.*wanda"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UsageError, match=message):
        lottery(build, lambda *_: None, evaluate, **{"seeds": (0,), **options})
