"""Lottery tickets of LeNet-300-100 (Frankle & Carbin 2019, figures 3 and 4, redrawn with our numbers).

    TERSOR_DATA=... python -m benchmarks.tickets [--short]

writes benchmarks/results/tickets.json and tickets.svg. Each round prunes 20 % of the weights that are left by
magnitude, layer by layer, 10 % of the output layer, and puts the others back to their initialisation. The controls have
as many weights: the ticket's mask with new weights, and a mask drawn at random with new weights. All arms train equally
long at a constant rate. Nothing is chosen by the numbers that are reported: they are accuracies on the test images.
`--short` runs on scikit-learn's digits and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import write_results
from benchmarks.mnist import LeNet300, digits, mnist
from benchmarks.plot import Axis, chart
from benchmarks.training import Plan, Split, accuracy, fit, seeded
from tersor.pruning import Prune
from tersor.recipe import Recipe, Rule
from tersor.shrinking import Lottery, lottery

SEEDS = (0, 1, 2)
ROUNDS = 15
"""0.8 ** 15 = 3.5 %."""
PLAN = Plan(5, 1.2e-3, constant=True)
RECIPE = Recipe([Rule("*.weight", prune=Prune(density=0.8)), Rule("fc3.weight", prune=Prune(density=0.9))])
REPORTED = (0.51, 0.21, 0.13, 0.07, 0.036)
"""Densities of the paper's table; ours are the nearest ones."""
REACHED = (0.036, 0.21)
"""Between these densities, winning tickets must reach the dense network, and re-initialised ones fall short."""


def run(data: Split, plan: Plan, rounds: int, seeds: Sequence[int], folder: Path | None) -> Lottery:
    """All arms, over all seeds; goes on where the folder's run stopped."""

    def build(seed: int) -> nn.Module:
        return seeded(LeNet300, seed)

    def train(model: nn.Module, seed: int, begin: int, end: int | None) -> None:
        assert begin == 0 and end is None, "tickets go back to their initialisation"
        fit(model, data.train, plan, seed)

    def evaluate(model: nn.Module) -> float:
        return accuracy(model, data.test)

    return lottery(build, train, evaluate, config=RECIPE, rounds=rounds, seeds=seeds, folder=folder)


def table(found: Lottery) -> list[dict[str, Any]]:
    """Rows at the reported densities, and how far from the dense network's mean each arm is, in points."""
    dense = found.row("dense").mean
    rows = []
    for density in REPORTED:
        for arm in ("ticket", "reinitialised", "scratch"):
            row = dataclasses.asdict(found.row(arm, density))
            rows.append({**row, "values": list(row["values"]), "apart": row["mean"] - dense})
    return rows


def goals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether tickets reach the dense network between 3.6 and 21 %, and re-initialised ones stay below them."""
    low, high = REACHED[0] * 0.9, REACHED[1] * 1.1
    inside = [row for row in rows if low <= row["density"] <= high]
    tickets = {row["density"]: row["apart"] for row in inside if row["arm"] == "ticket"}
    again = {row["density"]: row["apart"] for row in inside if row["arm"] == "reinitialised"}
    return {
        "tickets_reach": all(apart >= 0 for apart in tickets.values()),
        "reinitialised_fall_short": all(again[density] < min(0, tickets[density]) for density in tickets),
    }


def figure(found: Lottery) -> str:
    """Test accuracy against weights left, in percent, all rounds."""
    lines = {
        name: [(100 * row.density, row.mean, row.std) for row in found.rows if row.arm in ("dense", arm)]
        for name, arm in (("winning ticket", "ticket"), ("re-initialised", "reinitialised"), ("random mask", "scratch"))
    }
    across = Axis("weights left, %", (100, 51, 26, 13, 7, 3.6), log=True)
    return chart("LeNet-300-100 on MNIST", across, Axis("test accuracy, %", (94, 95, 96, 97, 98, 99)), lines)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the network is too small for more
    if options.short:
        found = run(digits(), Plan(2, 1.2e-3, batch=64, constant=True), 2, (0,), None)
        print(found)
        return
    data = mnist()
    if data is None:
        return
    folder = (
        Path(os.environ.get("TERSOR_WORK", "build/benchmarks")) / f"tickets-{PLAN.epochs:g}-{PLAN.rate:g}-{PLAN.batch}"
    )
    found = run(data, PLAN, ROUNDS, SEEDS, folder)
    rows = table(found)
    print(found)
    met = goals(rows)
    print(met)
    (Path(__file__).parent / "results" / "tickets.svg").write_text(figure(found))
    results = {"plan": dataclasses.asdict(PLAN), "table": rows, "goals": met, "lottery": found.to_dict()}
    write_results("tickets", results)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
