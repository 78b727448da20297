"""Clustered weights of LeNet-300-100: where centroids begin (Han et al. 2016, section 3.2), and what training adds.

    TERSOR_DATA=... python -m examples.clustering [--short]

writes examples/results/clustering.json. A dense network is trained once a seed. Then

starts: centroids that begin linearly spaced, at quantiles (density), at random weights, or exactly optimal; k-means,
        then training of the centroids. Errors before and after training, at 1 to 4 bits.
terms:  from the same dense network, for equally many epochs: plain training and clustering afterwards; that and
        training of the centroids for the last fifth; training with the cluster term. At 1 to 4 bits.

All layers are clustered. The term's strength is chosen on validation images, at seed 0, for each number of bits; the
test images are looked at once. Budget: about 40 minutes of one core, 3 seeds. An interrupted run goes on, from the
last epoch. `--short` runs on scikit-learn's digits in seconds and writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import tersor
from benchmarks.journal import Journal, work_folder
from benchmarks.machine import write_results
from benchmarks.mnist import LeNet300, digits, mnist
from benchmarks.training import Plan, Split, accuracy, fit, seeded, summary
from examples.loop import file_bytes, train
from tersor.quantization import Palettize
from tersor.recipe import Recipe, Rule
from tersor.simulation import ClusterTerm, TrainedClusters, Training

BITS = (1, 2, 3, 4)
STARTS = ("linear", "density", "random", "exact")
STRENGTHS = (0.1, 1.0, 10.0)
ARMS = ("afterwards", "centroids", "term")


@dataclass(frozen=True)
class Setting:
    """dense: training of the dense network. extra: of all arms of `terms` after it. centroids: of centroids alone."""

    dense: Plan
    extra: Plan
    centroids: Plan
    seeds: tuple[int, ...] = (0, 1, 2)
    bits: tuple[int, ...] = BITS
    hidden: tuple[int, int] = (300, 100)


LONG = Setting(Plan(10, 1e-3), Plan(10, 5e-4), Plan(2, 5e-4))


def rule(bits: int, training: Training | None = None, init: str = "exact") -> list[Rule]:
    """All weights share 2^bits values a layer."""
    return [Rule("*.weight", Palettize(bits, init=init), train=training)]


class Run:
    """One setting on one data set. keep: results and states are kept, and taken up."""

    def __init__(self, setting: Setting, data: Split, keep: bool = True) -> None:
        self.setting, self.data = setting, data
        plan = [dataclasses.asdict(setting), STRENGTHS]
        self.journal = Journal("clustering", plan) if keep else None
        self.folder = work_folder("clustering-states", plan) if keep else None
        self._dense: dict[int, nn.Module] = {}

    def dense(self, seed: int) -> nn.Module:
        """A copy of the seed's dense network."""
        if seed not in self._dense:
            model = seeded(lambda: LeNet300(self.setting.hidden), seed)

            def work(model: nn.Module) -> None:
                fit(model, self.data.train, self.setting.dense, seed)

            if self.journal is None:
                work(model)
            else:
                self.journal.network(f"dense {seed}", model, work)
            self._dense[seed] = model
        return copy.deepcopy(self._dense[seed])

    def once(self, key: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `work` gives, or gave in an earlier run."""
        return work() if self.journal is None else self.journal.once(key, work)

    def trained(self, model: nn.Module, rules: list[Rule], plan: Plan, seed: int, key: str) -> tersor.CompressedModel:
        """`model` trained in place, and what its file holds."""
        state = None if self.folder is None else self.folder / f"{key.replace(' ', '-')}.state"
        return train(model, rules, self.data.train, plan, seed, state=state)

    def start(self, init: str, bits: int, seed: int) -> dict[str, float]:
        """Test errors in percent, before and after the training of the centroids that begin at `init`."""
        model = self.dense(seed)
        before = self.error(tersor.compress(model, Recipe(rule(bits, init=init))), "test")
        self.trained(
            model, rule(bits, TrainedClusters(), init), self.setting.centroids, seed, f"start {init} {bits} {seed}"
        )
        return {"before": before, "after": 100 - accuracy(model, self.data.test)}

    def term(self, arm: str, bits: int, seed: int, strength: float = 1.0, final: bool = True) -> dict[str, float]:
        """Validation error in percent of an arm; with `final` the test error and the size of the file, too."""
        model, plan, key = self.dense(seed), self.setting.extra, f"{arm} {bits} {seed} {strength:g} {final}"
        if arm == "term":
            training = ClusterTerm(strength=strength)
            compressed = self.trained(model, rule(bits, training), plan, seed, key)
        elif arm == "afterwards":
            fit(model, self.data.train, plan, seed)
            compressed = tersor.compress(model, Recipe(rule(bits)))
        else:
            fit(model, self.data.train, replace(plan, epochs=0.8 * plan.epochs), seed)
            last = replace(plan, epochs=0.2 * plan.epochs)
            compressed = self.trained(model, rule(bits, TrainedClusters()), last, seed, key)
        found = {"validation": self.error(compressed, "validation")}
        if final:
            found |= {"test": self.error(compressed, "test"), "bytes": float(file_bytes(compressed))}
        return found

    def error(self, compressed: tersor.CompressedModel, part: str) -> float:
        """Percent of wrong predictions of what the file holds."""
        model = LeNet300(self.setting.hidden)
        model.load_state_dict(compressed.state_dict())
        return 100 - accuracy(model, getattr(self.data, part))

    def starts(self) -> list[dict[str, Any]]:
        """The table of initialisations."""
        rows = []
        for bits in self.setting.bits:
            for init in STARTS:
                found = [
                    self.once(f"start {init} {bits} {seed}", lambda i=init, b=bits, s=seed: self.start(i, b, s))
                    for seed in self.setting.seeds
                ]
                row = {m: summary([one[m] for one in found]) for m in ("before", "after")}
                rows.append({"bits": bits, "init": init, **row})
                print(f"{bits} bits, {init}: {row['before']['mean']:.2f} -> {row['after']['mean']:.2f} %", flush=True)
        return rows

    def terms(self) -> list[dict[str, Any]]:
        """The table of what training adds."""
        rows = []
        for bits in self.setting.bits:
            trials = {
                strength: self.once(
                    f"strength {strength:g} {bits}", lambda b=bits, c=strength: self.term("term", b, 0, c, False)
                )["validation"]
                for strength in STRENGTHS
            }
            best = min(trials, key=trials.__getitem__)
            for arm in ARMS:
                found = [
                    self.once(f"{arm} {bits} {seed}", lambda a=arm, b=bits, s=seed, c=best: self.term(a, b, s, c))
                    for seed in self.setting.seeds
                ]
                row = {m: summary([one[m] for one in found]) for m in ("validation", "test", "bytes")}
                chosen = {"strength": best, "trials": {f"{s:g}": v for s, v in trials.items()}} if arm == "term" else {}
                rows.append({"bits": bits, "arm": arm, **chosen, **row})
                print(f"{bits} bits, {arm}: {row['test']['mean']:.2f} %, {row['bytes']['mean']:.0f} bytes", flush=True)
        return rows


def run(setting: Setting, data: Split, keep: bool = True) -> dict[str, Any]:
    """Both tables, and the dense networks' error."""
    one = Run(setting, data, keep)
    dense = summary([100 - accuracy(one.dense(seed), data.test) for seed in setting.seeds])
    plan = {name: value for name, value in dataclasses.asdict(setting).items() if name != "seeds"}
    return {"plan": plan, "seeds": list(setting.seeds), "dense": dense, "starts": one.starts(), "terms": one.terms()}


def short() -> dict[str, Any]:
    """The same on scikit-learn's digits with hidden layers of 20 and 10 units: it proves no number."""
    setting = Setting(Plan(4, 5e-3, 100), Plan(2, 2e-3, 100), Plan(1, 2e-3, 100), (0,), (1, 3), (20, 10))
    return run(setting, digits(), keep=False)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the network is too small for more
    if options.short:
        short()
        return
    data = mnist()
    if data is not None:
        write_results("clustering", run(LONG, data), "examples")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
