"""LeNet-300-100 and LeNet-5 on MNIST in files of a few kilobytes: rate-aware training (docs/rate-aware.md).

    TERSOR_DATA=... python -m examples.rate_aware_lenets [--short] [--seeds N] [--augment shifts|none] [NETWORK ...]

writes examples/results/rate_aware_lenets.json. Bytes are those of whole .tsr files on disk. Each goal is a size, which
one training ends at: the multiplier is moved after each epoch. It starts from the dense network; that of a small
LeNet-300-100 from the next larger one. Networks are tested once, at the end; plans were found on validation images. The
dense networks have the same images, with the same shifts, as the small ones.

Budget: one core, up to 90 minutes for each network and three seeds with shifts, as long without. What is done is kept;
an interrupted run goes on. `MALLOC_MMAP_THRESHOLD_=268435456 MALLOC_TRIM_THRESHOLD_=536870912` in the environment takes
page faults off, most of the time of elementwise work. `--short` runs on scikit-learn's digits in under a minute, proves
no number and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import LeNet5, LeNet300, digits, mnist
from benchmarks.ratetraining import Pictures, Stage, Trainer, Weights, compressed, fitting, ordered, strongest, trimmed
from benchmarks.training import Split, accuracy, seeded, summary
from examples.loop import file_bytes, opened

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Goal:
    """A file of at most `max_bytes` that errs at most `error` % on test images; None: as the dense network does.

    stage: how it is trained for, if not as others of its study.
    """

    max_bytes: int
    error: float | None
    published: str
    stage: Stage | None = None


@dataclass(frozen=True)
class Study:
    """A network, how it is trained at first and then for each goal, and the goals, largest file first.

    keep: units of each group that stages start with; others keep all. warm: each goal but the first starts from the
    network of the one before, not from the dense one. The dense LeNet-5 teaches in stages that are distilled.
    """

    name: str
    build: Callable[[], nn.Module]
    dense: Stage
    stage: Stage
    goals: tuple[Goal, ...]
    keep: dict[str, int] = field(default_factory=dict)
    warm: bool = False

    @property
    def stages(self) -> list[Stage]:
        """Of all goals."""
        return [goal.stage or self.stage for goal in self.goals]


LONG = Stage(60, arrives=0.2, margin=0.99, distilled=0.7)
DENSE5 = Stage(8, rate=2e-3, multiplier=0.0, decay=0.01)
STUDIES = (
    Study(
        "LeNet-300-100",
        LeNet300,
        Stage(20, rate=2e-3, multiplier=0.0, decay=0.01),
        Stage(40, distilled=0.7),
        (
            Goal(6500, None, "Deep Compression: 27 KB, no loss"),
            Goal(2400, 1.58, "Deep Compression: 27 KB at 1.58 %", LONG),
            Goal(2100, 1.9, "entropy-penalised reparameterization: 8.56 KB at 1.9 %", LONG),
        ),
        warm=True,
    ),
    Study(
        "LeNet-5",
        LeNet5,
        DENSE5,
        Stage(16, multiplier=3e-6),
        (
            Goal(8000, None, "no loss", Stage(40, multiplier=1e-6, margin=0.98, distilled=0.7)),
            Goal(4000, 0.74, "Deep Compression: 44 KB at 0.74 %"),
            Goal(1500, 1.0, "MIRACLE: 1.52 KB at 0.96 %; entropy-penalised reparameterization: 2.84 KB at 1.0 %"),
        ),
        {"conv1.weight": 10, "conv2.weight": 20, "fc1.weight": 100},
    ),
)


@dataclass(frozen=True)
class Arm:
    """One network, seed and kind of augmentation: what trains it, and what it did before."""

    study: Study
    seed: int
    shifts: bool
    data: Split
    journal: Journal

    def key(self, *words: object) -> str:
        """In the journal."""
        return " ".join(map(str, (self.study.name, self.seed, "shifts" if self.shifts else "plain", *words)))

    def planned(self, stage: Stage, **changes: Any) -> Stage:
        """The stage with this arm's augmentation."""
        return dataclasses.replace(stage, shifts=self.shifts, **changes)

    def dense(self, build: Callable[[], nn.Module], stage: Stage, name: str) -> Weights:
        """The float network, trained."""
        start = Weights(dict(seeded(build, self.seed).state_dict()))

        def work() -> dict[str, torch.Tensor]:
            trainer = Trainer(build, Pictures(self.data.train, self.shifts), fold=False)
            return trainer.run(start, self.planned(stage), self.seed).flat()

        return Weights.of(self.journal.tensors(self.key("dense", name), work))

    def teacher(self) -> nn.Module | None:
        """LeNet-5, if it teaches in a stage of the study."""
        if not any(stage.distilled for stage in self.study.stages):
            return None
        model = LeNet5()
        model.load_state_dict(dict(self.dense(LeNet5, DENSE5, "LeNet-5").tensors))
        return model.eval()


def small(arm: Arm, dense: Weights) -> list[dict[str, Any]]:
    """For each goal that was met the bytes of the file and errors in %, which choose nothing."""
    study = arm.study
    trainer = Trainer(study.build, Pictures(arm.data.train, arm.shifts, arm.teacher()))
    start = strongest(trainer, dense, study.keep) if study.keep else dense
    rows: list[dict[str, Any]] = []
    for goal in study.goals:

        def fits(weights: Weights, goal: Goal = goal) -> bool:
            return file_bytes(compressed(weights)) <= goal.max_bytes

        # A training ends a few percent beside where it aims.
        for aim in (1.0, 0.93, 0.87):
            whole = _trained(arm, trainer, start, goal, round(aim * goal.max_bytes))
            weights = fitting(functools.partial(_without, whole), fits, 5)
            if fits(weights):
                size, model = opened(compressed(weights), study.build)
                parts = {"validation": arm.data.validation, "test": arm.data.test}
                errors = {name: 100 - accuracy(model, part) for name, part in parts.items()}
                rows.append({"goal": goal.max_bytes, "bytes": size, **errors})
                start = whole if study.warm else start
                break
    return rows


def _without(weights: Weights, share: float) -> Weights:
    return trimmed(weights, share) if share else weights


def _trained(arm: Arm, trainer: Trainer, start: Weights, goal: Goal, aim: int) -> Weights:
    """The network of a training for a goal that aims at so many bytes."""
    stage = arm.planned(goal.stage or arm.study.stage, max_bytes=aim)

    def work() -> dict[str, torch.Tensor]:
        return ordered(trainer, trainer.run(start, stage, arm.seed)).flat()

    return Weights.of(arm.journal.tensors(arm.key("to", aim), work))


def measure(study: Study, seeds: Sequence[int], shifts: bool, data: Split, journal: Journal) -> dict[str, Any]:
    """Bytes and errors over seeds, of the dense network and for every goal."""
    dense: list[float] = []
    rows: list[list[dict[str, Any]]] = []
    for seed in seeds:
        arm = Arm(study, seed, shifts, data, journal)
        weights = arm.dense(study.build, study.dense, study.name)
        rows.append(small(arm, weights))
        model = study.build()
        model.load_state_dict(dict(weights.tensors))
        dense.append(100 - accuracy(model, data.test))
    goals = []
    for goal in study.goals:
        reached = [row for each in rows for row in each if row["goal"] == goal.max_bytes]
        names = ("bytes", "validation", "test") if reached else ()
        columns = {name: summary([row[name] for row in reached]) for name in names}
        allowed = summary(dense)["mean"] if goal.error is None else goal.error
        met = len(reached) == len(seeds) and columns["test"]["mean"] <= allowed
        goals.append({**dataclasses.asdict(goal), "allowed": allowed, "met": met, **columns})
    plans = {"dense": dataclasses.asdict(study.dense), "stage": dataclasses.asdict(study.stage)}
    original = 4 * sum(parameter.numel() for parameter in study.build().parameters())
    return {
        "network": study.name,
        "shifts": shifts,
        "seeds": list(seeds),
        "plans": plans,
        "original_bytes": original,
        "dense_test": summary(dense),
        "goals": goals,
        "rows": rows,
    }


def show(result: dict[str, Any]) -> None:
    """As plain text."""
    dense = result["dense_test"]
    augmented = "with shifts" if result["shifts"] else "without augmentation"
    print(f"\n{result['network']}, {len(result['seeds'])} seeds, {augmented}")
    print(f"{'dense':>10} {result['original_bytes']:12,} bytes  error {dense['mean']:5.2f} ± {dense['std']:4.2f} %")
    for goal in result["goals"]:
        if "bytes" not in goal:
            print(f"{goal['max_bytes']:>10} bytes: no network was small enough")
            continue
        size, error = goal["bytes"], goal["test"]
        print(
            f"{goal['max_bytes']:>10} {size['mean']:12,.0f} bytes  error {error['mean']:5.2f} ± {error['std']:4.2f} %  "
            f"allowed {goal['allowed']:.2f}  {'met' if goal['met'] else 'missed'}"
        )


def shortened(study: Study) -> Study:
    """A study of seconds, on a thousand digits: one goal that any training meets."""
    goals = (Goal(150_000, None, "none"),)
    dense = dataclasses.replace(study.dense, epochs=2, batch=64)
    stage = dataclasses.replace(study.stage, epochs=3, batch=64, distilled=0.0)
    return dataclasses.replace(study, dense=dense, stage=stage, goals=goals)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description="LeNets in files of a few kilobytes")
    parser.add_argument("--short", action="store_true", help="digits of scikit-learn, seconds")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--augment", choices=("shifts", "none"), help="only with, or only without shifts")
    parser.add_argument("networks", nargs="*", help="LeNet-300-100, LeNet-5; both if none is named")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small for more
    data = digits() if options.short else mnist()
    if data is None:
        raise SystemExit("MNIST was not found below TERSOR_DATA; --short needs no data")
    studies = [study for study in STUDIES if not options.networks or study.name in options.networks]
    if options.short:
        studies, options.augment = [shortened(study) for study in studies], "shifts"
    seeds = SEEDS[:1] if options.short else SEEDS[: options.seeds]
    arms = [options.augment == "shifts"] if options.augment else [True, False]
    results = []
    for study in studies:
        journal = Journal("rate_aware_lenets", [options.short, dataclasses.asdict(study)])
        for shifts in arms:
            results.append(measure(study, seeds, shifts, data, journal))
            show(results[-1])
    if not options.short:
        write_results("rate_aware_lenets", {"results": results}, "examples")
    return results


if __name__ == "__main__":
    main()
