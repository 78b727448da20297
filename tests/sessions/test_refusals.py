"""What `prepare` and `join` refuse, and that nothing is changed then."""

import pytest
import torch
from torch import nn

import tersor
from tersor import Palettize, Prune, PruneChannels, Quantize, Rule, Schedule
from tersor.errors import DivergenceError, OutputError, TersorWarning, UnsupportedTypeError, UsageError
from tersor.shrinking.holding import hold, make_plain
from tersor.simulation import LearnedSteps, QuantizeInputs, TrainedClusters
from tests.sessions.toys import ClampInputs, Round, X, Y, adam, build, train

ROUND = Rule("*.weight", Quantize(bits=4), train=Round())


def picture(model, optimizer):
    """All that must stay, to be compared: identities and values."""
    found = {}
    for name, module in model.named_modules():
        found[name] = [type(module), sorted(vars(module))]
        found[name] += [list(value) for value in vars(module).values() if isinstance(value, dict)]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found["tensors"] = [(n, id(t), t.detach().clone().tolist(), t.grad is None) for n, t in tensors]
    groups = optimizer.param_groups
    found["groups"] = [[*map(id, g["params"]), *((k, v) for k, v in g.items() if k != "params")] for g in groups]
    found["moments"] = {id(p): {k: v.tolist() for k, v in s.items()} for p, s in optimizer.state.items()}
    found["hooks"] = list(optimizer._optimizer_step_pre_hooks)
    found["random"] = torch.get_rng_state().tolist()
    return found


def stepped(model, optimizer):
    (model(X) - Y).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([ROUND, Rule("2.weight", Palettize(bits=8))], r"2\.weight: .*256 centroids for 40 weights"),
        (
            [ROUND, Rule("*", prune=Prune(density=0.5)), Rule("norm.weight", activations=ClampInputs())],
            "norm: clamp_inputs",
        ),
        ([Rule("0.*", prune=Prune(density=0.5)), Rule("2.*", prune=Prune(density=0.5, criterion="obs"))], "'obs'"),
        (
            [ROUND, Rule("0.*", Palettize(bits=8)), Rule("*", channels=PruneChannels(ratio=0.5))],
            r"0\.weight: .*for 30 weights",
        ),
        ([ROUND, Rule("2.*", activations=ClampInputs()), Rule("0.*", train=TrainedClusters(begin=3))], "palettize"),
    ],
)
def test_a_refused_recipe_changes_nothing(rules, says):
    model = build()
    model.add_module("norm", nn.BatchNorm1d(4))
    optimizer = adam(model)
    stepped(model, optimizer)
    before = picture(model, optimizer)
    with pytest.raises(UsageError, match=says):
        tersor.prepare(model, rules, optimizer=optimizer, example_inputs=X[:2])
    assert picture(model, optimizer) == before
    fresh = build()
    fresh.add_module("norm", nn.BatchNorm1d(4))
    other = adam(fresh)
    stepped(fresh, other)
    train(tersor.prepare(fresh, ROUND, optimizer=other), 2)
    train(tersor.prepare(model, ROUND, optimizer=optimizer), 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_masks_of_before_and_recurrent_layers_stay():
    torch.manual_seed(0)
    model = nn.LSTM(3, 4)
    hold(model, {"weight_hh_l0": torch.rand(16, 4) > 0.5})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(5, 2, 3)
    expected, before = model(inputs)[0], picture(model, optimizer)
    rules = [Rule("*", Quantize(bits=4), Prune(density=0.2), train=Round()), Rule("weight_hh*", Palettize(bits=8))]
    with pytest.raises(UsageError, match="weight_hh_l0"):
        tersor.prepare(model, rules, optimizer=optimizer)
    assert picture(model, optimizer) == before
    assert torch.equal(model(inputs)[0], expected)


@pytest.mark.parametrize(
    "rule",
    [
        [Rule("0.weight", Quantize(bits=4)), Rule("0.weight", train=TrainedClusters(begin=3))],
        Rule("0.weight", Palettize(bits=6), train=TrainedClusters(begin=4)),
        Rule("0.weight", Palettize(bits=5), Prune(density=0.5), train=TrainedClusters(begin=4)),
        Rule(
            "0.weight",
            Palettize(bits=5),
            Prune(density=0.5),
            schedule=Schedule("linear", end=3),
            train=TrainedClusters(begin=4),
        ),
    ],
)
def test_what_begins_later_is_refused_now(rule):
    with pytest.raises(UsageError, match=r"0\.weight: clusters"):
        tersor.prepare(build(), rule)


def test_what_begins_later_is_tried_without_traces():
    model = build()
    rules = [
        Rule("0.weight", Palettize(bits=5), Prune(density=0.4), schedule=Schedule("linear", begin=1, end=9)),
        Rule("0.weight", train=TrainedClusters(begin=5)),  # of whose 60 weights 42 are left by then
        Rule("2.weight", activations=ClampInputs(begin=2)),
    ]
    before = torch.get_rng_state()
    session = tersor.prepare(model, rules, optimizer=adam(model))
    assert torch.equal(torch.get_rng_state(), before) and not session.quantizers and not session.own_parameters()
    train(session, 6)
    assert len(session.own_parameters()) == 2
    with pytest.raises(UsageError, match="1: quantize_inputs: it is for"):
        tersor.prepare(
            nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), Rule("1.weight", activations=QuantizeInputs(begin=1))
        )


def test_trainings_that_never_begin_are_told():
    model = build()
    rules = [Rule("*.weight", Quantize(bits=4), train=LearnedSteps(begin=50))]
    rules.append(Rule("2.weight", activations=ClampInputs(begin=3)))
    with pytest.warns(TersorWarning, match=r"learned_steps of 0\.weight, 2\.weight begins at step 50.*inputs of 2"):
        session = tersor.prepare(model, rules, optimizer=adam(model), steps=3)
    train(session, 2)
    with pytest.warns(TersorWarning, match=r"ends at step 2: learned_steps of 0\.weight"):
        session.finalize()


def test_optimizers_of_other_networks_are_refused():
    model, other = build(), build()
    with pytest.raises(UsageError, match="holds none of the model's parameters"):
        tersor.prepare(model, ROUND, optimizer=adam(other))
    session = tersor.prepare(model, ROUND)
    for wrong, says in ((None, "torch.optim.Optimizer, got NoneType"), (adam(other), "holds none")):
        with pytest.raises(UsageError, match=says):
            session.join(wrong)
        assert session.optimizer is None
    both = torch.optim.SGD([*other.parameters(), model[2].bias], lr=0.1)  # two networks, and a frozen part
    session.join(both)
    assert session.optimizer is both
    frozen = build().requires_grad_(False)
    tersor.prepare(frozen, Rule("*", prune=Prune(density=0.5)), optimizer=adam(other))


def test_optimizers_of_one_group():
    model = build()
    optimizer = torch.optim.LBFGS(model.parameters())
    before = picture(model, optimizer)
    with pytest.raises(UsageError, match=r"LBFGS takes no second group.*techniques without"):
        tersor.prepare(model, ROUND, optimizer=optimizer)
    assert picture(model, optimizer) == before
    session = tersor.prepare(model, ROUND)
    with pytest.raises(UsageError, match="LBFGS takes no second group"):
        session.join(optimizer)
    session.join(adam(model))
    train(session, 1)
    model = build()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    session = tersor.prepare(model, Rule("*", prune=Prune(density=0.5)), optimizer=optimizer)
    optimizer.step(lambda: session.loss((model(X) - Y).square().mean()))
    session.step()


def test_a_second_session_with_the_same_optimizer(tmp_path):
    model = build()
    optimizer = adam(model)
    first = tersor.prepare(model, Rule("*", Quantize(bits=4), train=Round(rate=0.5)), optimizer=optimizer)
    first.finalize()
    with pytest.raises(UsageError, match="over"):
        first.join(optimizer)
    session = tersor.prepare(model, ROUND, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 1e-3]
    train(session, 2)
    session.save(tmp_path / "state.pt")
    again = build()
    resumed = tersor.prepare(again, ROUND, optimizer=adam(again))
    resumed.load(tmp_path / "state.pt")
    train(session, 2)
    train(resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("recipe.yaml", r"tersor\.Recipe\.load\(path\)"),
        (Quantize(bits=4), r'tersor\.Rule\("\*", Quantize'),
        (None, "a Rule or a list of Rules, got None"),
        ([5], "list of Rules"),
        ({"match": "*"}, "list of Rules"),
    ],
)
def test_what_is_no_recipe(recipe, says):
    with pytest.raises(UsageError, match=says):
        tersor.prepare(build(), recipe)


@pytest.mark.parametrize(
    "wrong",
    [
        {"log": 5},
        {"log": ""},
        {"checkpoint": 5},
        {"checkpoint": "a\0b"},
        {"progress": "bar", "steps": 2},
        {"steps": 2.0},
    ],
)
def test_arguments_of_wrong_types(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        tersor.prepare(build(), ROUND, **wrong)


@pytest.mark.parametrize("option", ["log", "checkpoint"])
@pytest.mark.parametrize("place", [".", "x" * 300, "none/file"])
def test_files_that_cannot_be_written_are_refused_at_once(option, place, tmp_path):
    with pytest.raises(OutputError):
        tersor.prepare(build(), ROUND, **{option: tmp_path / place})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.LazyLinear(3)), r"0\.weight: .*module is lazy"),
        (nn.Sequential(nn.Linear(2, 3, device="meta")), r"0\.weight: .*meta device"),
    ],
)
def test_weights_without_values_are_refused(model, says):
    with pytest.raises((UsageError, UnsupportedTypeError), match=says):
        tersor.prepare(model, ROUND)


def test_a_network_in_a_session_is_finalized_by_it_alone():
    model = build()
    session = tersor.prepare(model, ROUND, optimizer=adam(model))
    train(session, 2)
    with pytest.raises(UsageError, match=r"session\.finalize"):
        tersor.finalize(model)
    train(session, 1)
    make_plain(model)
    for call in (session.step, session.finalize):
        with pytest.raises(UsageError, match=r"0\.weight: its simulation was taken away"):
            call()


def test_optimizers_of_named_parameters():
    model = build()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01)
    session = tersor.prepare(model, ROUND, optimizer=optimizer)
    train(session, 3)
    assert session.own_parameters()
    for group in optimizer.param_groups:
        assert len(group["param_names"]) == len(set(group["param_names"])) == len(group["params"])
    state = session.state_dict()
    fresh = build()
    again = tersor.prepare(fresh, ROUND, optimizer=torch.optim.AdamW(fresh.named_parameters(), lr=0.01))
    again.load_state_dict(state)
    session.finalize()
    assert [len(group["param_names"]) for group in optimizer.param_groups] == [4, 0]


@pytest.mark.parametrize("path", [None, 3, b"x", "", "a\0b"])
def test_states_go_to_paths(path):
    with pytest.raises(UsageError, match="save: the state's file"):
        tersor.prepare(build(), Rule("*.weight", prune=Prune(density=0.5))).save(path)


def test_losses_are_real_numbers():
    session = tersor.prepare(build(), Rule("*.weight", prune=Prune(density=0.5)))
    for wrong in (torch.tensor(1), torch.tensor(1j)):
        with pytest.raises(UsageError, match=f"{wrong.dtype}"):
            session.loss(wrong)


def test_extras_that_hold_themselves(tmp_path):
    extra = {}
    extra["own"] = extra
    with pytest.raises(UsageError, match=r"extra .*holds itself"):
        tersor.prepare(build(), Rule("*.weight", prune=Prune(density=0.5))).save(tmp_path / "state.pt", extra)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_told_whatever_the_disk_says(tmp_path):
    folder = tmp_path / "states"
    folder.mkdir()
    model = build()
    session = tersor.prepare(model, ROUND, optimizer=adam(model), checkpoint=folder / "state.pt")
    folder.rmdir()
    with pytest.raises(DivergenceError, match=r"step 1: the loss is not finite .*could not be kept: .*does not exist"):
        session.loss((model(X) - Y).square().mean() * torch.nan)
