"""Pruning Filters for Efficient ConvNets (Li et al. 2017) again, on CIFAR-10 as it is here (JPEG).

    TERSOR_DATA=... python -m benchmarks.filters [--short] [large] [criteria] [order] [sensitivity]

writes benchmarks/results/filters.json (and filters-sensitivity-*.svg). Parts:

large:       ResNet-56 with at least 27 % and 50 % of the multiply-accumulates removed, fine-tuned.
criteria:    ResNet-20, 3 seeds: L1 against random, entropy, APoZ and Taylor, before and after fine-tuning.
order:       ResNet-20, 3 seeds: half of the filters by L1 all at once, or layer by layer with fine-tuning in between.
sensitivity: ResNet-20: accuracy against the share of each layer's filters that is gone, by L1 and Taylor.

As in the paper, the first layer of each block loses filters. Each network is held against the unpruned one, fine-tuned
equally long from the same weights with the same loss. Validation images (5,000 of the training images) serve every
choice: of the criterion and scope for ResNet-56 before fine-tuning, and of all rates. `--short` runs a tiny network on
scikit-learn's digits and writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor
from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import digits
from benchmarks.networks import networks
from benchmarks.plot import Axis, chart
from benchmarks.sources import ResNetCifar, cifar10_test, cifar10_train
from benchmarks.training import Plan, Split, accuracy, divided, fit, seeded, summary
from tersor.costs import costs
from tersor.shrinking import LayerByLayer, PruneChannels, sensitivity

RESULTS = Path(__file__).parent / "results"
VALIDATION = 5_000
CALIBRATION = 512
"""Training images that statistics are taken of; another draw for each seed."""
SEEDS = (0, 1, 2)
CRITERIA = ("l1", "random", "entropy", "apoz", "taylor")
SCOPES = ("group", "global")
ORDER_RATIO = 0.5
"""Share of the filters that goes where all at once is compared with layer by layer."""
FILTERS = ("layer*.conv1.weight",)
"""What loses filters: the residual stream keeps its width."""
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Setting:
    """build: the trained network. plan: of fine-tuning, whether pruned or not. macs: shares that may be left."""

    build: Callable[[], nn.Module]
    plan: Plan
    macs: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    data: Split
    journal: Journal
    small: Setting
    large: Setting

    @property
    def example(self) -> Tensor:
        """One image, for which multiply-accumulates are counted."""
        return self.data.train[0][:1]

    def samples(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Labelled training images for statistics."""
        images, labels = self.data.train
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
        return list(zip(images[drawn].split(128), labels[drawn].split(128), strict=True))

    def evidence(self, criterion: str, seed: int) -> dict[str, Any]:
        """What `tersor.prune` and `sensitivity` are given to judge by; Taylor's gradients are of the labelled loss."""
        samples = self.samples(seed)
        if criterion == "taylor":
            return {"example_inputs": self.example, "calibration": samples, "loss": _cross_entropy, "seed": seed}
        return {"example_inputs": self.example, "calibration": [images for images, _ in samples], "seed": seed}

    def prune(self, model: nn.Module, config: PruneChannels, seed: int, **options: Any) -> tersor.Pruned:
        """A copy of `model` without what the config says."""
        return tersor.prune(model, config, **self.evidence(config.criterion, seed), **options)

    def tuned(self, key: str, setting: Setting, seed: int, start: Callable[[], nn.Module]) -> dict[str, Any]:
        """Scores of a network before fine-tuning and after it; what stands after each epoch is kept."""

        def first() -> dict[str, Any]:
            model = start()
            return {"before": self.scores(model), "costs": costs(model, (self.example,), latency=True).to_dict()}

        def last() -> dict[str, float]:
            model, plan = start(), setting.plan
            teacher = setting.build() if plan.distilled else None
            parts = max(1, math.ceil(plan.epochs))
            for part in range(parts):

                def train(model: nn.Module, part: int = part) -> None:
                    fit(model, self.data.train, plan, seed, teacher, (part, parts))

                model = self.journal.network(f"{key} part {part}", model, train)
            return self.scores(model)

        before = self.journal.once(f"{key} before", first)
        return {**before, "after": self.journal.once(f"{key} after", last)}

    def scores(self, model: nn.Module) -> dict[str, float]:
        """Percent of correct predictions."""
        return {"validation": accuracy(model, self.data.validation), "test": accuracy(model, self.data.test)}

    def control(self, name: str, setting: Setting, seed: int) -> dict[str, Any]:
        """The unpruned network, fine-tuned equally long."""
        return self.tuned(f"{name} control {seed}", setting, seed, setting.build)


def large(bench: Bench) -> dict[str, Any]:
    """ResNet-56 at each target: criterion and scope by validation accuracy before fine-tuning."""
    setting, rows = bench.large, []
    for macs in setting.macs:

        def choices(macs: float = macs) -> dict[str, float]:
            found = {}
            for criterion in ("l1", "taylor"):
                for scope in SCOPES:
                    config = PruneChannels(macs=macs, criterion=criterion, scope=scope, match=FILTERS)
                    pruned = bench.prune(setting.build(), config, 0)
                    found[f"{criterion} {scope}"] = accuracy(pruned.model, bench.data.validation)
            return found

        found = bench.journal.once(f"large choices {macs}", choices)
        criterion, scope = max(found, key=lambda name: found[name]).split()
        for seed in setting.seeds:
            start = functools.partial(_pruned_model, bench, setting, macs, criterion, seed, scope)
            control = bench.control("large", setting, seed)
            row = bench.tuned(f"large {macs} {criterion} {scope} {seed}", setting, seed, start)
            rows.append(
                {
                    "macs": row["costs"]["macs"] / control["costs"]["macs"],
                    "latency": row["costs"]["latency"] / control["costs"]["latency"],
                    "parameters": row["costs"]["parameters"] / control["costs"]["parameters"],
                    "choice": f"{criterion} {scope}",
                    "choices": found,
                    "seed": seed,
                    "pruned": row,
                    "control": control,
                    "lost": control["after"]["test"] - row["after"]["test"],
                }
            )
    return {"plan": dataclasses.asdict(setting.plan), "rows": rows}


def _pruned_model(bench: Bench, setting: Setting, macs: float, criterion: str, seed: int, scope: str) -> nn.Module:
    config = PruneChannels(macs=macs, criterion=criterion, scope=scope, match=FILTERS, seed=seed)
    return bench.prune(setting.build(), config, seed).finalize()


def criteria(bench: Bench) -> dict[str, Any]:
    """One row a criterion and target: accuracy before and after fine-tuning, over the seeds."""
    setting, rows = bench.small, []
    controls = [bench.control("small", setting, seed) for seed in setting.seeds]
    for macs in setting.macs:
        for criterion in CRITERIA:
            scored = []
            for seed in setting.seeds:
                start = functools.partial(_pruned_model, bench, setting, macs, criterion, seed, "group")
                scored.append(bench.tuned(f"criteria {macs} {criterion} {seed}", setting, seed, start))
            rows.append({"macs": macs, "criterion": criterion, **_summaries(scored)})
    return {"plan": dataclasses.asdict(setting.plan), "control": _summaries(controls), "rows": rows}


def order(bench: Bench) -> dict[str, Any]:
    """Half of each layer's filters all at once and layer by layer: equally many steps of training in all."""
    setting = bench.small
    arms = {"all at once": _at_once, "layer by layer": _by_layers}
    rows = []
    for name, arm in arms.items():
        scored = [
            bench.journal.once(f"order {name} {seed}", functools.partial(arm, bench, seed)) for seed in setting.seeds
        ]
        rows.append({"ratio": ORDER_RATIO, "order": name, **_summaries(scored)})
    return {"plan": dataclasses.asdict(setting.plan), "rows": rows}


def _at_once(bench: Bench, seed: int) -> dict[str, Any]:
    def fine_tune(model: nn.Module) -> None:
        fit(model, bench.data.train, bench.small.plan, seed)

    pruned = bench.prune(bench.small.build(), PruneChannels(ORDER_RATIO, match=FILTERS), seed, fine_tune=fine_tune)
    return {"after": bench.scores(pruned.finalize())}


def _by_layers(bench: Bench, seed: int) -> dict[str, Any]:
    """Each layer gets an equal part of the training, a one-cycle schedule of its own."""
    model = bench.small.build()
    layers = sum(name.startswith("layer") and name.endswith("conv1") for name, _ in model.named_modules())
    part = dataclasses.replace(bench.small.plan, epochs=bench.small.plan.epochs / layers)
    turns = iter(range(layers))

    def fine_tune(model: nn.Module) -> None:
        fit(model, bench.data.train, part, 100 * seed + next(turns))

    config = PruneChannels(ORDER_RATIO, match=FILTERS)
    pruned = bench.prune(model, config, seed, schedule=LayerByLayer(), fine_tune=fine_tune)
    return {"after": bench.scores(pruned.finalize())}


def curves(bench: Bench) -> dict[str, Any]:
    """Validation accuracy of the network when one layer alone lost a share of its filters."""
    model = bench.small.build()

    def evaluate(model: nn.Module) -> float:
        return accuracy(model, bench.data.validation)

    found = {}
    for criterion in ("l1", "taylor"):

        def work(criterion: str = criterion) -> dict[str, Any]:
            config = PruneChannels(0.5, criterion=criterion, match=FILTERS)
            more = bench.evidence(criterion, 0)
            return sensitivity(model, evaluate, config, fractions=FRACTIONS, **more).to_dict()

        found[criterion] = bench.journal.once(f"sensitivity {criterion}", work)
    return found


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _summaries(scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: accuracies before and after fine-tuning, and what is left of the costs."""
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        if all(when in row for row in scored):
            found[when] = {key: summary([row[when][key] for row in scored]) for key in ("validation", "test")}
    if all("costs" in row for row in scored):
        found["left"] = {key: scored[0]["costs"][key] for key in ("macs", "parameters")}
    return found


def show(part: str, result: dict[str, Any]) -> None:
    """Prints what a part found."""
    print(f"\n{part}")
    if part == "large":
        for row in result["rows"]:
            sizes = f"MACs {row['macs']:.3f}, parameters {row['parameters']:.3f}, latency {row['latency']:.3f}"
            scores = f"{row['pruned']['before']['test']:.2f} -> {row['pruned']['after']['test']:.2f}"
            print(f"{row['choice']:14} {sizes}: {scores}, control {row['control']['after']['test']:.2f}")
        return
    if part == "sensitivity":
        for criterion, found in result.items():
            print(f"{criterion}, {found['reference']:.2f} unpruned")
            for layer in found["layers"]:
                print(f"{layer['name']:26} " + " ".join(f"{metric:6.2f}" for _, metric in layer["points"]))
        return
    rows = list(result["rows"])
    if "control" in result:
        rows.insert(0, {"criterion": "unpruned", "macs": 1.0, **result["control"]})
    for row in rows:
        name = row.get("criterion") or row["order"]
        scores = [
            f"{when} {row[when]['test']['mean']:.2f} ± {row[when]['test']['std']:.2f}"
            for when in ("before", "after")
            if when in row
        ]
        print(f"{name:15} {row.get('macs', '')!s:5} {'  '.join(scores)}")


def cifar() -> Bench | None:
    """The real thing; None where data or weights are missing."""
    found = networks()
    test = cifar10_test()
    if test is None or "ResNet-20" not in found or "ResNet-56" not in found:
        return None
    train, validation = divided(cifar10_train(range(50_000)), VALIDATION)
    small = Setting(found["ResNet-20"].build, Plan(1, 0.02, 128, "sgd", 5e-4, augment=True), (0.7, 0.5), SEEDS)
    plan = Plan(4, 0.02, 128, "sgd", 5e-4, augment=True, distilled=0.5)
    large = Setting(found["ResNet-56"].build, plan, (0.73, 0.5), (0,))
    described = [dataclasses.asdict(setting) | {"build": ""} for setting in (small, large)]
    return Bench(Split(train, validation, test), Journal("filters", described), small, large)


def tiny() -> Bench:
    """Seconds: ResNet-8 on digits, trained on the spot."""
    parts = digits()
    data = Split(*((images.expand(-1, 3, -1, -1), labels) for images, labels in dataclasses.astuple(parts)))
    plan = Plan(1, 0.05, 64, "sgd", 5e-4)
    model = fit(seeded(functools.partial(ResNetCifar, 1), 0), data.train, plan, 0)
    setting = Setting(lambda: copy.deepcopy(model), plan, (0.7,), (0,))
    return Bench(data, Journal("filters-short", time.time()), setting, setting)


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "criteria": criteria,
    "order": order,
    "sensitivity": curves,
    "large": large,
}


def figure(found: dict[str, Any], criterion: str) -> str:
    """One line a layer, as in figure 2 (b) of the paper."""
    lines = {
        layer["name"].removesuffix(".conv1.weight"): [
            (100 * fraction, metric, 0.0) for fraction, metric in [(0.0, found["reference"]), *layer["points"]]
        ]
        for layer in found["layers"]
    }
    across, up = Axis("filters pruned away, %", range(0, 101, 10)), Axis("validation accuracy, %", range(0, 101, 10))
    return chart(f"ResNet-20, {criterion}", across, up, lines)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    options = parser.parse_args(arguments)
    bench = tiny() if options.short else cifar()
    if bench is None:
        return
    path = RESULTS / "filters.json"
    results = json.loads(path.read_text()) if path.exists() and not options.short else {}
    for part in options.parts or PARTS:
        results[part] = PARTS[part](bench)
        show(part, results[part])
        if not options.short:
            write_results("filters", {name: results[name] for name in PARTS if name in results})
    if "sensitivity" in results and not options.short:
        for criterion, found in results["sensitivity"].items():
            (RESULTS / f"filters-sensitivity-{criterion}.svg").write_text(figure(found, criterion))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
