"""States that do not fit are refused, and nothing is changed then; files that are damaged are found."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import tersor
from tersor import Distill, Distillation, Prune, Quantize, Rule, Schedule
from tersor.errors import InputError, ResumeError, UsageError
from tersor.training import MatchFeatures
from tests.sessions.test_refusals import picture
from tests.sessions.toys import ClampInputs, Round, X, adam, build, train

RULES = [
    Rule("*", Quantize(bits=3), Prune(density=0.3), schedule=Schedule("linear", end=4), train=Round(begin=2)),
    Rule("2.weight", activations=ClampInputs(begin=1)),
]


def prepared(model=None, **more):
    model = model or build()
    return tersor.prepare(model, RULES, optimizer=adam(model), **{"steps": 8, **more})


def matched(model):
    """A distillation with a projection to train."""
    teacher = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 4))
    config = Distill(matches=(MatchFeatures("0", "0"),))
    return Distillation(model, teacher, config, example_inputs=X)


@pytest.fixture
def state(tmp_path):
    """Of step 3, when everything has begun."""
    session = prepared()
    train(session, 3)
    session.save(tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def refused(session, state, says):
    before = picture(session.model, session.optimizer)
    fields = {name: repr(value) for name, value in vars(session).items()}
    with pytest.raises(ResumeError, match=says):
        session.load_state_dict(state)
    assert picture(session.model, session.optimizer) == before
    assert {name: repr(value) for name, value in vars(session).items()} == fields
    assert session.done == 0 and not session.quantizers


KEYS = ("structure", "done", "model", "optimizer", "pruning", "random", "companions", "steps", "distillation")


@pytest.mark.parametrize("key", KEYS)
def test_states_without_a_part_of_theirs(state, key):
    missing = {name: value for name, value in state.items() if name != key}
    refused(prepared(), missing, f"'{key}' of the state is not there")
    refused(prepared(), {**state, key: 0.5}, f"'{key}' of the state is a float")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"done": -1}, "make no sense"),
        ({"random": []}, "make no sense"),
        ({"random": [{}]}, "cannot be gone on from"),
        ({"pruning": []}, "schedules of pruning"),
        ({"optimizer": {}}, "cannot be gone on from"),
        ({"companions": {}}, "cannot be gone on from"),
        ({"structure": "{"}, "state"),
        ({"steps": 9}, r"9 steps, this one is of 8 steps.*steps=9"),
        ({"steps": None}, "an unknown number of steps"),
        ({"done": 1}, "0.parametrizations.weight.0"),
    ],
)
def test_states_that_contradict_themselves(state, change, says):
    refused(prepared(), {**state, **change}, says)


def test_what_is_no_state():
    for wrong in (None, 3, "state.pt"):
        with pytest.raises(ResumeError, match="a state is what"):
            prepared().load_state_dict(wrong)
    with pytest.raises(UsageError, match="must be a path, got 5"):
        prepared().load(5)


def test_states_of_another_network(state):
    wide = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))
    refused(prepared(wide), state, r"another network: 0\.\w+ is torch\.float32 of shape \(10.* shape \(12")
    deep = torch.nn.Sequential(*build(), torch.nn.PReLU())
    refused(prepared(deep), state, r"another network: it has no 3\.weight")
    model = {name: value for name, value in state["model"].items() if name != "0.parametrizations.weight.1.mask"}
    refused(prepared(), {**state, "model": model}, r"it has no 0\.parametrizations\.weight\.1\.mask")
    double = {name: value.double() if value.is_floating_point() else value for name, value in state["model"].items()}
    refused(prepared(), {**state, "model": double}, r"torch\.float64 of shape .* torch\.float32")


def test_moments_of_other_groups(state):
    groups = state["optimizer"]["state"]["param_groups"]
    groups[1]["params"] = groups[1]["params"][:1]
    refused(prepared(), state, "cannot be gone on from here: ValueError: .*group")


def test_states_with_and_without_a_teacher(tmp_path, state):
    model = build()
    refused(prepared(model, distillation=matched(model)), state, "without a teacher.*this one is with")
    refused(prepared(model=build(), teacher=build(1)), state, "without a teacher")
    model = build()
    taught = prepared(model, distillation=matched(model))
    refused(prepared(), taught.state_dict(), "with a teacher .*this one is without; prepare it with")


def test_steps_matter_only_where_weights_are_trained(tmp_path):
    rule = Rule("*", prune=Prune(density=0.5), schedule=Schedule("linear", end=3))
    model = build()
    session = tersor.prepare(model, rule, optimizer=adam(model), steps=4)
    train(session, 2)
    session.save(tmp_path / "state.pt")
    model = build()
    again = tersor.prepare(model, rule, optimizer=adam(model), steps=40)
    again.load(tmp_path / "state.pt")
    assert again.done == 2 and again.steps == 40


def test_extra_goes_along(tmp_path):
    session = prepared()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(session.optimizer, [2, 4])
    extra = {
        "best": np.float64(93.5),
        "counts": [np.int32(3), (True, None), {2, 3}],
        "scheduler": scheduler.state_dict(),
        "tensor": torch.eye(2),
        7: {"size": torch.Size([3]), "dtype": torch.float16, "letters": Counter("aab")},
    }
    session.save(tmp_path / "state.pt", extra)
    found = prepared().load(tmp_path / "state.pt")
    assert found.pop("tensor").tolist() == extra.pop("tensor").tolist()
    assert found == extra and type(found["best"]) is float and type(found["counts"][0]) is int
    scheduler.load_state_dict(found["scheduler"])


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"a": {"b": [1, np.zeros(2)]}}, r"extra\['a'\]\['b'\]\[1\] is a ndarray, .*torch\.from_numpy"),
        ({"path": Path("x")}, r"extra\['path'\] is a \w+, .*str\("),
        ({"args": argparse.Namespace(a=1)}, r"extra\['args'\] is a Namespace"),
        ({"f": lambda: 0}, r"extra\['f'\] is a function"),
        ({Path("x"): 1}, "a key of extra is a"),
        (3, "extra must be a dictionary, got 3"),
    ],
)
def test_extra_that_could_not_be_read_back(tmp_path, extra, says):
    with pytest.raises(UsageError, match=says):
        prepared().save(tmp_path / "state.pt", extra)
    assert not list(tmp_path.iterdir())


def test_damage_is_found(tmp_path):
    session = prepared()
    session.save(tmp_path / "state.pt", {"note": "word" * 8})
    whole = (tmp_path / "state.pt").read_bytes()
    places = [
        whole.index(session.model[0].weight.detach().numpy().tobytes()) + 5,
        whole.index(b"wordword") + 3,
        whole.index(session.model[2].weight.detach().numpy().tobytes()) + 99,
    ]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "state.pt").write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.pt: is damaged"):
            prepared().load(tmp_path / "state.pt")
    for content in (b"", whole[: len(whole) // 2], b"junk" * 100):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt: is damaged.*no state of a session"):
            prepared().load(tmp_path / "state.pt")
    with pytest.raises(InputError, match="is a folder"):
        prepared().load(tmp_path)


def test_foreign_files_get_no_advice_to_run_their_code(tmp_path):
    torch.save({"format": 1, "model": build()}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="none of its code was run") as told:
        prepared().load(tmp_path / "foreign.pt")
    assert "weights_only" not in str(told.value)
