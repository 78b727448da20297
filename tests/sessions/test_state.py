"""A run that was stopped goes on bit by bit."""

import io
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import tersor
from tersor import Prune, Quantize, Recipe, Regrow, Rule, Schedule
from tersor.errors import InputError, MissingExtraError, OutputError, ResumeError, UsageError
from tersor.sessions import Log
from tersor.sessions.state import random_state, set_random_state
from tests.sessions.toys import ClampInputs, Round, adam, build, train

RECIPE = Recipe(
    [
        Rule(
            "*",
            Quantize(bits=3),
            Prune(density=0.3),
            schedule=Schedule("cubic", begin=1, end=7, every=2),
            train=Round(bits=3, pull=0.1, begin=3),
        ),
        Rule("2.weight", Quantize(bits=4), Prune(density=0.5), regrow=Regrow(every=2, end=9), train=Round(rate=0.01)),
        Rule("2.weight", activations=ClampInputs(begin=5)),
    ]
)
STEPS = 8


def prepared(**more):
    model = build()
    return tersor.prepare(model, RECIPE, optimizer=adam(model), steps=STEPS, **more)


def seeded():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)


def everything(session):
    """All that the run's future depends on, as comparable bytes."""
    session.optimizer.zero_grad()
    state = session.state_dict()
    return {name: value.clone() for name, value in flat("", state).items()}


def flat(prefix, value):
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in flat(f"{prefix}/{name}", part).items()}
    if isinstance(value, (list, tuple)):
        return flat(prefix, dict(enumerate(value)))
    if isinstance(value, torch.Tensor):
        return {prefix: value.detach()}
    return {prefix: torch.frombuffer(bytearray(repr(value).encode()), dtype=torch.uint8)}


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole():
    """The end of the run that nobody stopped, and the states on the way."""
    session, states = prepared(), []
    seeded()
    for _ in range(STEPS):
        train(session, 1, draws=True)
        states.append(everything(session))
    return states


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 5, 6, 7])
def test_resumed_at_any_step_it_ends_bit_identical(tmp_path, whole, stop):
    session = prepared()
    seeded()
    train(session, stop, draws=True)
    session.save(tmp_path / "state.pt", {"epoch": stop})
    train(session, 1, draws=True)  # what came after the last state is lost
    torch.manual_seed(99)
    again = prepared()
    assert again.load(tmp_path / "state.pt") == {"epoch": stop} and again.done == stop
    train(again, STEPS - stop, draws=True)
    assert equal(everything(again), whole[-1])


def test_a_state_goes_back_in_its_own_session(whole):
    session = prepared()
    seeded()
    train(session, 6, draws=True)
    state = {name: value for name, value in session.state_dict().items()}
    state = torch.load(written(state), weights_only=True)
    train(session, 2, draws=True)
    session.load_state_dict(state)
    train(session, 2, draws=True)
    assert equal(everything(session), whole[-1])


def written(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


_RUN = """
import sys, time, torch
torch.set_num_threads(1)
from tests.sessions.test_state import *
path, wait = sys.argv[1], float(sys.argv[2])
session = prepared()
seeded()
if os.path.exists(path):
    session.load(path)
while session.done < STEPS:
    train(session, 1, draws=True)
    session.save(path)
    print(session.done, flush=True)
    time.sleep(wait)
"""


def test_a_killed_process_goes_on(tmp_path, whole):
    path = tmp_path / "state.pt"
    command = [sys.executable, "-c", _RUN, str(path)]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(step) for step in range(2, STEPS + 1)]
    session = prepared()
    session.load(path)
    assert equal(everything(session), whole[-1])


def test_another_recipe_is_refused_with_what_differs(tmp_path):
    session = prepared()
    session.save(tmp_path / "state.pt")
    model = build()
    rules = [RECIPE.rules[0], Rule("2.weight", Quantize(bits=5), train=Round()), RECIPE.rules[2]]
    with pytest.raises(ResumeError, match=r"rule 2 differs \(.*regrow: .*'bits': 4.*'bits': 5"):
        tersor.prepare(model, rules, optimizer=adam(model)).load(tmp_path / "state.pt")
    model = build()
    with pytest.raises(ResumeError, match="it has 3 rules, this one 2"):
        tersor.prepare(model, list(RECIPE.rules[:2]), optimizer=adam(model)).load(tmp_path / "state.pt")
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))
    with pytest.raises(ResumeError, match="another network"):
        tersor.prepare(model, RECIPE, optimizer=adam(model)).load(tmp_path / "state.pt")


def test_another_optimizer_is_refused_before_anything_changes(tmp_path):
    session = prepared()
    train(session, 4)
    session.save(tmp_path / "state.pt")
    own = r"AdamW of 4 parameters and, for simulations, groups of rates 0\.001, 0\.01"
    for make, says in (
        (lambda model: None, "no optimizer"),
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1), "SGD of 4"),
        (
            lambda model: torch.optim.AdamW([{"params": layer.parameters()} for layer in (model[0], model[2])]),
            r"2 \+ 2",
        ),
    ):
        model = build(1)
        again = tersor.prepare(model, RECIPE, optimizer=make(model))
        before = flat("", again.state_dict())
        before = {name: value.clone() for name, value in before.items()}
        with pytest.raises(ResumeError, match=f"saved with {own}, but this session has .*{says}.*prepare"):
            again.load(tmp_path / "state.pt")
        assert again.done == 0 and equal(flat("", again.state_dict()), before)


def test_a_later_session_is_refused():
    session = prepared()
    state = torch.load(written(session.state_dict()), weights_only=True)
    train(session, 4)
    with pytest.raises(ResumeError, match=r"0\.weight is simulated here already"):
        session.load_state_dict(state)


def test_files_that_are_no_state(tmp_path):
    session = prepared()
    (tmp_path / "text").write_text("no state")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"format": 1, "code": Log}, tmp_path / "code.pt")
    for name in ("text", "other.pt", "code.pt", "missing"):
        with pytest.raises(InputError, match=name):
            session.load(tmp_path / name)
    with pytest.raises(OutputError):
        session.save(tmp_path / "no folder" / "state.pt")
    with pytest.raises(ResumeError, match="names no recipe"):
        session.load_state_dict({"format": 1})


def test_random_states():
    state = random_state()
    drawn = (torch.rand(3), np.random.rand(3), np.random.randn(1), random.random(), random.gauss(0, 1))
    set_random_state(torch.load(written(state), weights_only=True))
    again = (torch.rand(3), np.random.rand(3), np.random.randn(1), random.random(), random.gauss(0, 1))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(drawn, again, strict=True))


def test_the_log(tmp_path):
    path = tmp_path / "run.jsonl"
    session = prepared(log=Log(path, every=2, bytes_every=3))
    train(session, 7)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert [line["step"] for line in lines if "bytes" in line] == [3, 6]
    assert all(line["loss"] == pytest.approx(line["task"] + line.get("penalty", 0), rel=1e-5) for line in lines)
    assert lines[-1]["density"] < lines[0]["density"] and [line["simulated"] for line in lines] == [1, 2, 2, 2]
    session.save(tmp_path / "state.pt")
    path.write_text(path.read_text() + '{"step": 8, "loss": 1}\n{"step"')
    again = prepared(log=path)
    again.load(tmp_path / "state.pt")
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_measuring_bytes_changes_nothing(tmp_path):
    session, watched = prepared(), prepared(log=Log(tmp_path / "run.jsonl", every=1, bytes_every=1))
    for each in (session, watched):
        seeded()
        train(each, 7, draws=True)
    assert equal(everything(session), everything(watched))
    tersor.save(watched.finalize(), tmp_path / "model.tsr")
    last = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[-1])
    assert last["bytes"] == os.path.getsize(tmp_path / "model.tsr")


def test_logs_that_cannot_be(tmp_path, monkeypatch):
    for wrong in ({"every": 0}, {"bytes_every": -1}, {"every": True}):
        with pytest.raises(UsageError, match="log"):
            Log(**wrong)
    with pytest.raises(OutputError, match="does not exist"):
        Log(tmp_path / "none" / "run.jsonl")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        Log(tensorboard=tmp_path)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    session = prepared(log=Log(tmp_path / "run.jsonl", tensorboard=tmp_path / "events", every=4))
    train(session, 7)
    session.finalize()
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    found = events.EventAccumulator(str(tmp_path / "events")).Reload()
    for key in ("loss", "density"):
        wanted = [(line["step"], pytest.approx(line[key])) for line in lines if key in line]
        assert wanted and [(event.step, event.value) for event in found.Scalars(key)] == wanted


def test_progress():
    calls = []
    session = prepared(progress=lambda *call: calls.append(call))
    train(session, 2)
    assert calls == [("training", 1, STEPS), ("training", 2, STEPS)]
