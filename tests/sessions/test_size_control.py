"""One training that ends at a size: the path, the controller, and both in a session."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import tersor
from tersor.container.writer import file_bytes
from tersor.errors import ResumeError, UsageError
from tersor.quantization import Quantize
from tersor.recipe import Rule
from tersor.sessions import SizeControl
from tersor.sessions.size_control import rate_bytes, steered, wanted_bytes
from tersor.simulation import RateAware

CONFIG = RateAware(multiplier=1e-5, ramp=0.0, settle=0.15, refit=10)
RULES = [Rule("*.weight", Quantize(bits=8, granularity="tensor"), train=CONFIG)]


def test_path_falls_ever_more_slowly_and_reaches_the_goal_in_the_end():
    assert wanted_bytes(800, 100, 0.0, 0.5) == 800
    assert wanted_bytes(800, 100, 0.25, 0.5, slack=1.0) == pytest.approx(800 * 8**-0.75)
    assert wanted_bytes(800, 100, 0.25, 0.5, power=1.0, slack=1.0) == pytest.approx(math.sqrt(800 * 100))
    for arrives in (0.0, 0.5):
        assert wanted_bytes(800, 100, arrives, arrives, slack=1.21) == pytest.approx(121)
        assert wanted_bytes(800, 100, (1 + arrives) / 2, arrives, slack=1.21) == pytest.approx(110)
    for arrives in (0.0, 0.5, 1.0):
        assert wanted_bytes(800, 100, 1.0, arrives) == pytest.approx(100)


def test_controller_meets_its_goal_where_sizes_follow_a_power_slowly():
    """A network whose size goes to 1,100 p^-0.8 with a lag of three measurements; p must rise to 20."""
    size, total = 1000.0, 0.0
    for number in range(1, 61):
        logarithm, total = steered(size, wanted_bytes(1000, 100, number / 60, 0.5), total)
        rest = 3000 * math.exp(-0.8 * (logarithm + math.log(3.5)))
        size *= (rest / size) ** (1 - math.exp(-1 / 3))
    assert size == pytest.approx(100, rel=0.05)


def test_controller_does_not_fall_far_below_where_sizes_go_on_falling():
    """A network that goes to 30 p^-0.8 with a lag that learning rates stretch, five times slower upwards."""
    size, total = 960.0, 0.0
    for number in range(1, 51):
        logarithm, total = steered(size, wanted_bytes(960, 117, number / 50, 0.5), total)
        rest = 30 * math.exp(-0.8 * logarithm)
        share = 1 - math.exp(-(1 + math.cos(math.pi * number / 50)) / 30)
        size *= (rest / size) ** (share / 5 if rest > size else share)
    assert 0.95 < size / 117 < 1.02


def test_a_size_that_does_not_answer_winds_nothing_up():
    total = 0.0
    for _ in range(1000):
        logarithm, total = steered(1000, 100, total)
    assert logarithm == pytest.approx(math.log(1000))
    for _ in range(10):
        logarithm, total = steered(50, 100, total)
    assert logarithm < math.log(100)


def build():
    return nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 4))


def prepared(steps):
    model = build()
    return tersor.prepare(model, RULES, optimizer=torch.optim.Adam(model.parameters(), 5e-3), steps=steps)


def trained(goal, steps=150, stop=None, state=None):
    """(model, control, session) after `stop` steps, from a state if there is one."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    session = tersor.prepare(model, RULES, optimizer=optimizer, steps=steps)
    control = SizeControl(session, goal)
    if state is not None:
        session.load(state)
    inputs = torch.randn(128, 32, generator=torch.Generator().manual_seed(1))
    labels = (inputs[:, :2] > 0).long() @ torch.tensor([1, 2])
    for _ in range(session.done, steps if stop is None else stop):
        optimizer.zero_grad()
        session.loss(nn.functional.cross_entropy(model(inputs), labels)).backward()
        optimizer.step()
        session.step()
    return model, control, session


@pytest.mark.parametrize("goal", [450, 700])
def test_training_ends_at_the_size(goal):
    model, control, session = trained(goal)
    size = rate_bytes(model)
    assert control.first > 1.2 * goal and size == pytest.approx(goal, rel=0.2)
    weights = [entry for entry in session.finalize().entries if entry.name.endswith("weight")]
    assert file_bytes(weights) == size


def test_a_stopped_training_goes_on_bit_by_bit(tmp_path):
    whole, control, _ = trained(400, steps=60)
    _, _, session = trained(400, steps=60, stop=33)
    session.save(tmp_path / "state")
    with pytest.raises(ResumeError, match="SizeControl"):
        prepared(60).load(tmp_path / "state")
    again, resumed, _ = trained(400, steps=60, state=tmp_path / "state")
    assert resumed.state_dict() == control.state_dict() and control.pressure != 1.0
    for key, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize(
    "option",
    [
        *({"max_bytes": wrong} for wrong in (0, "4KB", math.nan)),
        {"every": 0},
        *({"arrives": wrong} for wrong in (1.5, math.nan, None, "x", [], True, torch.ones(2), torch.tensor(0.5))),
    ],
)
def test_numbers_out_of_range(option):
    session = prepared(10)
    with pytest.raises(UsageError, match="positive integers"):
        SizeControl(session, **{"max_bytes": 100, **option})
    assert session.state_dict()["companions"]["kinds"] == []


def test_what_it_cannot_control():
    with pytest.raises(UsageError, match="RateAware"):
        SizeControl(tersor.prepare(build(), Rule("*", Quantize(bits=8)), steps=10), 100)
    with pytest.raises(UsageError, match=r"give tersor\.prepare steps="):
        SizeControl(prepared(None), 100)
    for wrong in (build(), None, 3):
        with pytest.raises(UsageError, match=r"takes the session that tersor\.prepare gives, got"):
            SizeControl(wrong, 100)


@pytest.mark.filterwarnings("ignore:.*SizeControl|.*rate")
def test_sessions_that_are_over_or_controlled_already():
    session = prepared(10)
    SizeControl(session, 400)
    with pytest.raises(UsageError, match="has a SizeControl already"):
        SizeControl(session, 500)
    assert session.state_dict()["companions"]["kinds"] == ["SizeControl"]
    session.finalize()
    with pytest.raises(UsageError, match="the session is over"):
        SizeControl(session, 400)
