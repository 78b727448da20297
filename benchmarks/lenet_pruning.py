"""Iterative magnitude pruning (Han et al. 2015, Learning both Weights and Connections) of LeNet-300-100 and LeNet-5.

    TERSOR_DATA=... python -m benchmarks.lenet_pruning [--short] [NETWORK ...]

writes benchmarks/results/lenet_pruning.json. In each round the weights of least magnitude go, over all layers together,
and the others are trained again. The control is the same network trained in as many rounds with nothing pruned, so
that pruning is not credited with the training. Densities were fixed beforehand; rates, decay and epochs of the rounds
were chosen on the validation images of seed 0; the test images are read once, at the end. `--short` runs on
scikit-learn's digits and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import tersor
from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import LeNet5, LeNet300, digits, mnist
from benchmarks.training import Plan, Split, accuracy, fit, seeded, summary
from tersor.pruning import Prune

SEEDS = (0, 1, 2)
DENSITIES = (0.25, 0.08, 0.04, 0.02)
"""Share of the weights (biases are not counted) that is left after each round."""
GOALS = {0.08: 0.0, 0.02: 0.3}
"""Density -> points of test accuracy that may be lost there."""


@dataclass(frozen=True)
class Study:
    """A network, how it is trained at first, and how again in each round."""

    name: str
    build: Callable[[], nn.Module]
    dense: Plan
    round: Plan
    densities: tuple[float, ...] = DENSITIES
    seeds: tuple[int, ...] = SEEDS


STUDIES = (
    Study("LeNet-300-100", LeNet300, Plan(12, 2e-3), Plan(20, 1e-2, decay=0.1)),
    Study("LeNet-5", LeNet5, Plan(5, 2e-3), Plan(3, 5e-3)),
)


def networks(study: Study, seed: int, data: Split, journal: Journal) -> dict[str, nn.Module]:
    """The dense network, the control, and the network of each density, all trained: by name."""

    def trained(key: str, model: nn.Module, plan: Plan, order: int) -> nn.Module:
        return journal.network(f"{study.name} {seed} {key}", model, lambda m: fit(m, data.train, plan, order))

    dense = trained("dense", seeded(study.build, seed), study.dense, seed)
    found = {"dense": dense}
    control = pruned = dense
    for turn, density in enumerate(study.densities):
        order = 1000 * (turn + 1) + seed
        control = trained(f"control {density}", _copy(study, control), study.round, order)

        def retrain(model: nn.Module, start: nn.Module = pruned, density: float = density, order: int = order) -> None:
            held = tersor.prune(start, Prune(density=density, scope="global"))
            fit(held.model, data.train, study.round, order)
            model.load_state_dict(held.finalize().state_dict())

        pruned = journal.network(f"{study.name} {seed} {density}", study.build(), retrain)
        found[str(density)] = pruned
    return {**found, "control": control}


def _copy(study: Study, model: nn.Module) -> nn.Module:
    copy = study.build()
    copy.load_state_dict(model.state_dict())
    return copy


def weights_left(model: nn.Module) -> float:
    """Share of the weights, biases not counted, that is not zero."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def measure(study: Study, data: Split, journal: Journal) -> dict[str, Any]:
    """Accuracies in percent of every network of a study, over its seeds."""
    scores: dict[str, list[dict[str, float]]] = {}
    for seed in study.seeds:
        for name, model in networks(study, seed, data, journal).items():

            def judge(model: nn.Module = model) -> dict[str, float]:
                return {
                    "left": weights_left(model),
                    "validation": accuracy(model, data.validation),
                    "test": accuracy(model, data.test),
                }

            scores.setdefault(name, []).append(journal.once(f"{study.name} {seed} scores {name}", judge))
    rows = {
        name: {key: summary([score[key] for score in scored]) for key in ("left", "validation", "test")}
        for name, scored in scores.items()
    }
    goals = [_goal(rows, density, allowed) for density, allowed in GOALS.items() if str(density) in rows]
    plans = {"dense": dataclasses.asdict(study.dense), "round": dataclasses.asdict(study.round)}
    return {"network": study.name, "seeds": list(study.seeds), "plans": plans, "rows": rows, "goals": goals}


def _goal(rows: dict[str, Any], density: float, allowed: float) -> dict[str, Any]:
    lost = {rival: rows[rival]["test"]["mean"] - rows[str(density)]["test"]["mean"] for rival in ("dense", "control")}
    return {"density": density, "allowed": allowed, "lost": lost, "met": lost["dense"] <= allowed + 1e-9}


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['network']}, {len(result['seeds'])} seeds\n{'':>10} {'left %':>8} {'validation':>16} {'test':>16}"
    )
    for name, row in result["rows"].items():
        cells = [f"{row[key]['mean']:9.2f} ± {row[key]['std']:4.2f}" for key in ("validation", "test")]
        print(f"{name:>10} {100 * row['left']['mean']:8.2f} {cells[0]:>16} {cells[1]:>16}")
    for goal in result["goals"]:
        print(f"at {100 * goal['density']:g} %: lost {goal['lost']}, allowed {goal['allowed']}, met {goal['met']}")


def shortened(study: Study) -> Study:
    """A study of seconds."""
    quick = dataclasses.replace(study.round, epochs=1, batch=64)
    first = dataclasses.replace(study.dense, epochs=2, batch=64)
    return dataclasses.replace(study, dense=first, round=quick, densities=(0.36, 0.08), seeds=(0,))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("networks", nargs="*")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small for more
    data = digits() if options.short else mnist()
    if data is None:
        return
    results = []
    for study in STUDIES:
        if options.networks and study.name not in options.networks:
            continue
        study = shortened(study) if options.short else study
        journal = Journal("lenet_pruning", [dataclasses.asdict(study), time.time() if options.short else ""])
        results.append(measure(study, data, journal))
        show(results[-1])
    if not options.short:
        write_results("lenet_pruning", {"networks": results})


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
