"""What benchmarks that train share: loops, splits, the journal and charts."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from benchmarks.journal import Journal
from benchmarks.plot import Axis, chart
from benchmarks.training import Plan, accuracy, divided, fit, rate_at, seeded, summary


@pytest.fixture
def data():
    """Three clouds that a linear layer tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    images = torch.randn(300, 1, 4, 4, generator=generator)
    images[torch.arange(300), 0, labels, labels] += 4
    return images, labels


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fit_learns(data, optimizer):
    model = seeded(build, 0)
    before = accuracy(model, data)
    assert fit(model, data, Plan(10, 0.05, 32, optimizer), 0) is model
    assert not model.training and accuracy(model, data) > max(before, 85)


def test_the_same_seed_the_same_network(data):
    state = torch.get_rng_state()
    one, other, third = (fit(seeded(build, 0), data, Plan(1, 0.1, 32), seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one[1].weight, other[1].weight) and not torch.equal(one[1].weight, third[1].weight)


def test_rates_rise_fall_and_end_near_nothing():
    plan = Plan(1, 0.5, warm=0.25)
    rates = [rate_at(plan, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[25] == 0.5
    assert rates[:26] == sorted(rates[:26]) and rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] < 0.001
    assert {rate_at(Plan(1, 0.5, constant=True), step, 100) for step in range(100)} == {0.5}


def test_parts_are_the_whole(data):
    plan = Plan(4, 0.05, 32)
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    model = nn.Sequential(nn.Flatten(), Watched(16, 3))
    for part in range(3):
        fit(model, data, plan, 0, part=(part, 3))
    assert len(seen) == plan.steps(300)
    assert accuracy(model, data) > 85


def test_a_teacher_is_followed(data):
    """Labels that are noise, and a teacher that knows better."""
    teacher = fit(seeded(build, 1), data, Plan(10, 0.05, 32), 0)
    wrong = (data[0], torch.randint(3, (300,), generator=torch.Generator().manual_seed(5)))
    plan = Plan(10, 0.05, 32, distilled=1.0)
    assert accuracy(fit(seeded(build, 0), wrong, plan, 0, teacher), data) > 85


def test_parts_of_an_epoch():
    assert Plan(0.5, 0.1, 10).steps(100) == 5
    assert Plan(0.001, 0.1, 10).steps(100) == 1


def test_divided_loses_no_image(data):
    (images, labels), (drawn, drawn_labels) = divided(data, 50)
    assert len(drawn) == len(drawn_labels) == 50 and len(images) == 250
    together = torch.cat([images, drawn]).flatten(1).sum(1).sort().values
    assert torch.equal(together, data[0].flatten(1).sum(1).sort().values)
    again = divided(data, 50)
    assert torch.equal(again[1][0], drawn) and torch.equal(again[0][1], labels)


def test_summary():
    assert summary([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert summary([1.0])["std"] == 0.0


def test_the_journal_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    calls = []

    def work():
        calls.append(1)
        return {"a": 1.5}

    def change(model):
        calls.append(2)
        nn.init.constant_(model.weight, 3.0)

    for _ in range(2):
        journal = Journal("name", {"epochs": 3})
        assert journal.once("arm 1/2", work) == {"a": 1.5}
        assert journal.network("net", nn.Linear(2, 2), change).weight.eq(3).all()
    assert calls == [1, 2]
    Journal("name", {"epochs": 4}).once("arm 1/2", work)
    assert calls == [1, 2, 1]


def test_an_interrupted_arm_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))

    def stopped():
        raise KeyboardInterrupt

    journal = Journal("name", 0)
    with pytest.raises(KeyboardInterrupt):
        journal.once("arm", stopped)
    assert journal.once("arm", lambda: 7) == 7


def test_chart_places_points_between_its_ticks():
    x, y = Axis("left, %", (100, 10, 1), log=True), Axis("accuracy <%>", (0, 100))
    svg = chart("a & b", x, y, {"one": [(100, 0, 0), (10, 50, 5), (1, 100, 0)], "two": [(100, 150, 0)]})
    root = ElementTree.fromstring(svg)
    dots = [(float(d.get("cx")), float(d.get("cy"))) for d in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert [a for a, _ in dots[:3]] == [70, 350, 630]
    assert [b for _, b in dots[:3]] == [370, 205, 40]
    assert dots[3] == (70, 40), "what lies outside is drawn at the edge"
    assert "a & b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
