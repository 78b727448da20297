"""How the benchmarks of pruning judge what they measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import coverage, lenet_pruning, tickets
from benchmarks.coverage import ARCHITECTURES, SHARES, attempt, table
from benchmarks.mnist import LeNet5, LeNet300
from tersor.shrinking.lottery import Lottery, Row
from tests.zoo.catalogue import CATALOGUE


def test_every_architecture_is_in_the_zoo():
    assert set(ARCHITECTURES.values()) <= set(CATALOGUE) and len(ARCHITECTURES) == 21


@pytest.mark.parametrize(("build", "weights"), [(LeNet300, 266_200), (LeNet5, 430_500)])
def test_lenets_have_the_weights_that_papers_count(build, weights):
    model = build()
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) == weights
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_weights_left_counts_no_biases():
    model = nn.Linear(4, 2)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    with torch.no_grad():
        model.weight[0] = 0
    assert lenet_pruning.weights_left(model) == 0.5


def test_goals_of_lenets_count_what_is_lost_on_the_test_images():
    def row(test: float) -> dict:
        return {"test": {"mean": test}}

    rows = {"dense": row(98.0), "control": row(98.5), "0.08": row(98.0), "0.02": row(97.6)}
    assert lenet_pruning._goal(rows, 0.08, 0.0)["met"]
    missed = lenet_pruning._goal(rows, 0.02, 0.3)
    assert not missed["met"] and missed["lost"] == {"dense": pytest.approx(0.4), "control": pytest.approx(0.9)}


def lottery_of(ticket: float, again: float) -> Lottery:
    rows = [Row("dense", 1.0, 98.0, 0.1, (98.0,))]
    for density in (0.51, 0.21, 0.13, 0.07, 0.036, 0.019):
        rows.append(Row("ticket", density, ticket if density > 0.03 else 90.0, 0.1, (ticket,)))
        rows.append(Row("reinitialised", density, again, 0.1, (again,)))
        rows.append(Row("scratch", density, 90.0, 0.1, (90.0,)))
    return Lottery(tuple(rows), (0,), 0)


@pytest.mark.parametrize(
    ("ticket", "again", "reach", "short"),
    [(98.1, 97.5, True, True), (97.9, 97.5, False, True), (98.1, 98.05, True, False)],
)
def test_goals_of_tickets(ticket, again, reach, short):
    found = lottery_of(ticket, again)
    assert tickets.goals(tickets.table(found)) == {"tickets_reach": reach, "reinitialised_fall_short": short}
    assert tickets.figure(found).count("<circle") == 3 * 7


def test_table_counts_what_is_done_at_every_share():
    def row(name: str, ours: tuple[bool, bool], theirs: tuple[bool, bool]) -> dict:
        shares = [str(share) for share in SHARES]
        tools = {"tersor": ours, "torch-pruning": theirs}
        return {"architecture": name} | {
            tool: {share: {"done": done} for share, done in zip(shares, flags, strict=True)}
            for tool, flags in tools.items()
        }

    both, yes = (True, False), (True, True)
    found = table([row("a", yes, yes), row("b", both, yes), row("c", yes, both)])
    assert found == {"of": 3, "done": {"tersor": 2, "torch-pruning": 2}, "only_theirs": ["b"]}


def test_an_attempt_that_fails_is_a_result(monkeypatch):
    def fails(name: str, share: float, full: bool) -> dict:
        raise ValueError(f"{name} at {share}")

    def dies(name: str, share: float, full: bool) -> dict:
        raise SystemExit(3)

    monkeypatch.setitem(coverage.TOOLS, "tersor", fails)
    assert attempt("tersor", "x", 0.3, False) == {"done": False, "error": "ValueError: x at 0.3"}
    monkeypatch.setitem(coverage.TOOLS, "tersor", dies)
    assert attempt("tersor", "x", 0.3, False) == {"done": False, "error": "ended with 3"}
