"""Pruning Filters for Efficient ConvNets (Li et al. 2017) again, on CIFAR-10 as it is here (JPEG).

    TERSOR_DATA=... python -m benchmarks.filters [--short] [PART ...]

writes benchmarks/results/filters.json (and filters-sensitivity-*.svg). Parts:

criteria:    ResNet-20, 3 seeds: L1 against random, entropy, APoZ and Taylor, before and after fine-tuning.
order:       ResNet-20, 3 seeds: half of the filters by L1 all at once, or layer by layer with fine-tuning in between.
sensitivity: ResNet-20: accuracy against the share of each layer's filters that is gone, by L1 and Taylor.
repair:      ResNet-20, 3 draws of samples: what repair alone brings, for weights and for filters.
resnet56:    at least 27 % and 50 % of the multiply-accumulates removed, by filters, and 27 % by whole blocks,
             fine-tuned.
vgg16:       half-width VGG-16-BN (`benchmarks.vgg`): at least 34 % of the multiply-accumulates and 64 % of the
             parameters removed, fine-tuned.
latency:     of the last two, for one image on one thread, the networks in turn.

As in the paper, the first layer of each residual block loses filters. Each network is held against the unpruned one,
fine-tuned equally long from the same weights. ResNet-56 and VGG-16 are repaired from 512 training images before that,
and learn from the unpruned network's predictions besides the labels; the unpruned network has no better teacher than
itself and learns from labels alone. The tables of ResNet-20 are without repair and teacher, as the paper's. Validation
images (2,000 of the training images) serve the one choice that is made, that of criterion and scope before fine-tuning;
rates and epochs were not tuned. `--short` runs a tiny network on scikit-learn's digits and writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import math
import statistics
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
from benchmarks.vgg import LAST_SIX, VALIDATION, trained
from tersor.costs import costs, measure_latency
from tersor.pruning import Prune, PruneBlocks, PruneChannels
from tersor.shrinking import LayerByLayer, sensitivity

RESULTS = Path(__file__).parent / "results"
BATCH = 128
CALIBRATION = 512
"""Training images that statistics are taken of; another draw for each seed."""
SEEDS = (0, 1, 2)
CRITERIA = ("l1", "random", "entropy", "apoz", "taylor")
NETWORKS = ("resnet56", "vgg16")
TURNS = 20
ORDER_RATIO = 0.5
"""Share of the filters that goes where all at once is compared with layer by layer."""
FILTERS = ("layer*.conv1.weight",)
"""What loses filters: the residual stream keeps its width."""
VGG_RATIO = 0.5
VGG_FILTERS = ("features.0.weight", *LAST_SIX)
"""The layers that the paper halves: the first one, and the last six."""
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


Config = Prune | PruneChannels | PruneBlocks

REPAIRED: dict[str, Config] = {
    "weights to 30 %, l1": Prune(density=0.3),
    "weights to 30 %, obs": Prune(density=0.3, criterion="obs"),
    "40 % of the filters, l1": PruneChannels(0.4, match=FILTERS),
}
"""What is repaired without training, by name."""


@dataclass(frozen=True)
class Target:
    """left: the shares of "macs" and "parameters" that may be left. configs: what may get there, by names."""

    left: dict[str, float]
    configs: dict[str, Config]


@dataclass(frozen=True)
class Setting:
    """build: the trained network, which teaches if `plan`, of fine-tuning, says so. repair: before it, from samples."""

    name: str
    build: Callable[[], nn.Module]
    plan: Plan
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    repair: bool = False


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    data: Split
    journal: Journal
    small: Setting
    large: dict[str, Setting]

    @property
    def example(self) -> Tensor:
        """One image, for which multiply-accumulates are counted."""
        return self.data.train[0][:1]

    def samples(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Labelled training images for statistics."""
        images, labels = self.data.train
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
        return list(zip(images[drawn].split(BATCH), labels[drawn].split(BATCH), strict=True))

    def evidence(self, criterion: str, seed: int) -> dict[str, Any]:
        """What `tersor.prune` and `sensitivity` are given to judge by; Taylor's gradients are of the labelled loss."""
        samples = self.samples(seed)
        if criterion == "taylor":
            return {"example_inputs": self.example, "calibration": samples, "loss": _cross_entropy, "seed": seed}
        # Blocks are tried one by one: fewer images must do.
        enough = 1 if criterion == "divergence" else len(samples)
        return {"example_inputs": self.example, "calibration": [images for images, _ in samples[:enough]], "seed": seed}

    def prune(self, model: nn.Module, config: Config, seed: int, repair: bool = False, **options: Any) -> tersor.Pruned:
        """A copy of `model` without what the config says."""
        return tersor.prune(model, config, repair=repair, **self.evidence(config.criterion, seed), **options)

    def tuned(self, key: str, setting: Setting, seed: int, start: Callable[[], nn.Module]) -> dict[str, Any]:
        """Scores of a network before fine-tuning and after it; what stands after each epoch is kept."""

        def first() -> dict[str, Any]:
            model = start()
            return {"before": self.scores(model), "costs": costs(model, (self.example,)).to_dict()}

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

    def control(self, setting: Setting, seed: int) -> dict[str, Any]:
        """The unpruned network, fine-tuned equally long, on labels alone."""
        plain = dataclasses.replace(setting, plan=dataclasses.replace(setting.plan, distilled=0.0))
        return self.tuned(f"{setting.name} control {seed}", plain, seed, setting.build)

    def pruned(self, setting: Setting, config: Config, seed: int) -> nn.Module:
        """The network of a setting without what the config says, not fine-tuned."""
        config = dataclasses.replace(config, seed=seed)
        if isinstance(config, PruneBlocks):
            # The search takes minutes: it is done once.
            search = functools.partial(self.prune, setting.build(), config, seed)
            names = self.journal.once(f"{setting.name} {config.macs} blocks {seed}", lambda: search().blocks)
            config = PruneBlocks(names=tuple(names))
        return self.prune(setting.build(), config, seed, repair=setting.repair).finalize()


def large(name: str, bench: Bench) -> dict[str, Any]:
    """A network at each target, as the config that is best before fine-tuning has it."""
    setting, rows = bench.large[name], []
    for target in setting.targets:
        found = _choices(bench, setting, target)
        choice = max(found, key=lambda name: found[name])
        for seed in setting.seeds:
            start = functools.partial(bench.pruned, setting, target.configs[choice], seed)
            control = bench.control(setting, seed)
            row = bench.tuned(f"{name} {target.left} {choice} {seed}", setting, seed, start)
            left = {key: row["costs"][key] / control["costs"][key] for key in ("macs", "parameters")}
            lost = control["after"]["test"] - row["after"]["test"]
            rows.append(
                {"asked": target.left, "left": left, "choice": choice, "choices": found, "seed": seed}
                | {"pruned": row, "control": control, "lost": lost}
            )
    return {"plan": dataclasses.asdict(setting.plan), "rows": rows}


def _choices(bench: Bench, setting: Setting, target: Target) -> dict[str, float]:
    """Validation accuracy, before fine-tuning, of every config that gets to the target."""
    full = costs(setting.build(), (bench.example,))

    def judged() -> dict[str, float]:
        found = {}
        for name, config in target.configs.items():
            model = bench.pruned(setting, config, 0)
            small = costs(model, (bench.example,))
            if all(getattr(small, key) <= left * getattr(full, key) for key, left in target.left.items()):
                found[name] = accuracy(model, bench.data.validation)
        return found

    return bench.journal.once(f"{setting.name} choices {target.left} {' '.join(target.configs)}", judged)


def latency(bench: Bench) -> dict[str, Any]:
    """Seconds of one image on one thread, the networks in turn: medians, and their shares of the unpruned one's."""
    rows = []
    for name, setting in bench.large.items():
        models: dict[str, nn.Module] = {"unpruned": setting.build()}
        for target in setting.targets:
            found = _choices(bench, setting, target)
            choice = max(found, key=lambda name: found[name])
            models[f"{choice} {target.left}"] = bench.pruned(setting, target.configs[choice], 0)
        macs = {label: costs(model, (bench.example,)).macs for label, model in models.items()}
        seconds: dict[str, list[float]] = {label: [] for label in models}
        for _ in range(TURNS):
            for label, model in models.items():
                seconds[label].append(measure_latency(model, (bench.example,), runs=5))
        medians = {label: statistics.median(times) for label, times in seconds.items()}
        for label in models:
            share, left = medians[label] / medians["unpruned"], macs[label] / macs["unpruned"]
            rows.append({"network": name, "left": label, "seconds": medians[label], "latency": share, "macs": left})
    return {"rows": rows}


def criteria(bench: Bench) -> dict[str, Any]:
    """One row a criterion and target: accuracy before and after fine-tuning, over the seeds."""
    setting, rows = bench.small, []
    controls = [bench.control(setting, seed) for seed in setting.seeds]
    for target in setting.targets:
        for criterion, config in target.configs.items():
            scored = []
            for seed in setting.seeds:
                start = functools.partial(bench.pruned, setting, config, seed)
                scored.append(bench.tuned(f"criteria {target.left} {criterion} {seed}", setting, seed, start))
            rows.append({"asked": target.left, "criterion": criterion, **_summaries(scored)})
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


def repairs(bench: Bench) -> dict[str, Any]:
    """Test accuracy of pruned networks that are not trained again, as they are and repaired, over draws of samples."""
    rows = []
    for name, config in REPAIRED.items():
        # OBS chooses masks and the weights that make good for them in one: there is nothing before its repair.
        arms = {"repaired": True} if config.criterion == "obs" else {"as_it_is": False, "repaired": True}
        found = {}
        for arm, repair in arms.items():

            def work(repair: bool = repair, config: Config = config) -> list[float]:
                models = [bench.prune(bench.small.build(), config, seed, repair).finalize() for seed in SEEDS]
                return [accuracy(model, bench.data.test) for model in models]

            found[arm] = summary(bench.journal.once(f"repair {name} {arm}", work))
        rows.append({"pruned": name, **found})
    return {"samples": CALIBRATION, "unpruned": accuracy(bench.small.build(), bench.data.test), "rows": rows}


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
    if part == "sensitivity":
        for criterion, found in result.items():
            print(f"{criterion}, {found['reference']:.2f} unpruned")
            for layer in found["layers"]:
                print(f"{layer['name']:26} " + " ".join(f"{metric:6.2f}" for _, metric in layer["points"]))
        return
    for row in [*([{"criterion": "unpruned", **result["control"]}] if "control" in result else []), *result["rows"]]:
        print(_line(row))


def _line(row: dict[str, Any]) -> str:
    if "repaired" in row:
        scored = [(arm, row[arm]) for arm in ("as_it_is", "repaired") if arm in row]
        return f"{row['pruned']:25} " + "  ".join(f"{arm} {at['mean']:.2f} ± {at['std']:.2f}" for arm, at in scored)
    if "seconds" in row:
        return f"{row['network']:9} {row['left']:45} MACs {row['macs']:.3f}, latency {row['latency']:.3f}"
    if "lost" in row:
        sizes = f"MACs {row['left']['macs']:.3f}, parameters {row['left']['parameters']:.3f}"
        scores = f"{row['pruned']['before']['test']:.2f} -> {row['pruned']['after']['test']:.2f}"
        return f"{row['choice']:14} {sizes}: {scores}, control {row['control']['after']['test']:.2f}"
    scored = [(when, row[when]["test"]) for when in ("before", "after") if when in row]
    scores = "  ".join(f"{when} {test['mean']:.2f} ± {test['std']:.2f}" for when, test in scored)
    return f"{row.get('criterion') or row['order']:15} {row.get('asked', '')!s:14} {scores}"


def cifar() -> Bench | None:
    """The real thing; None where data or weights are missing."""
    found = networks()
    test = cifar10_test()
    if test is None or "ResNet-20" not in found or "ResNet-56" not in found:
        return None
    train, validation = divided(cifar10_train(range(50_000)), VALIDATION)
    plan = Plan(0.25, 0.01, 128, "sgd", 5e-4, augment=True)
    small = Setting("ResNet-20", found["ResNet-20"].build, plan, (_half(CRITERIA),), SEEDS)
    plan = Plan(1, 0.01, 128, "sgd", 5e-4, augment=True, distilled=0.9)
    targets = (
        *(Target({"macs": macs}, _configs({"macs": macs}, FILTERS)) for macs in (0.73, 0.5)),
        Target({"macs": 0.73}, {"blocks": PruneBlocks(macs=0.73)}),
    )
    large = {"resnet56": Setting("ResNet-56", found["ResNet-56"].build, plan, targets, (0,), repair=True)}
    halved = {name: PruneChannels(VGG_RATIO, criterion=name, match=VGG_FILTERS) for name in ("l1", "taylor")}
    target = Target({"macs": 0.66, "parameters": 0.36}, halved | _configs({"parameters": 0.36}, ("features.*",)))
    large["vgg16"] = Setting("VGG-16", functools.partial(trained, train), plan, (target,), (0,), repair=True)
    plans = [dataclasses.asdict(setting.plan) for setting in (small, *large.values())]
    return Bench(Split(train, validation, test), Journal("filters", plans), small, large)


def _half(criteria: Sequence[str]) -> Target:
    configs = {name: PruneChannels(macs=0.5, criterion=name, match=FILTERS) for name in criteria}
    return Target({"macs": 0.5}, configs)


def _configs(left: dict[str, float], match: tuple[str, ...]) -> dict[str, Config]:
    return {
        f"{criterion} {scope}": PruneChannels(**left, criterion=criterion, scope=scope, match=match)
        for criterion in ("l1", "taylor")
        for scope in ("group", "global")
    }


def tiny() -> Bench:
    """Seconds: ResNet-8 on digits, trained on the spot."""
    parts = digits()
    data = Split(*((images.expand(-1, 3, -1, -1), labels) for images, labels in dataclasses.astuple(parts)))
    plan = Plan(1, 0.05, 64, "sgd", 5e-4)
    model = fit(seeded(functools.partial(ResNetCifar, 1), 0), data.train, plan, 0)
    setting = Setting("ResNet-8", lambda: copy.deepcopy(model), plan, (_half(CRITERIA[:3]),), (0,))
    return Bench(data, Journal("filters-short", time.time()), setting, {"resnet56": setting})


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "criteria": criteria,
    "order": order,
    "sensitivity": curves,
    "repair": repairs,
    "resnet56": functools.partial(large, "resnet56"),
    "vgg16": functools.partial(large, "vgg16"),
    "latency": latency,
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
    torch.set_num_threads(1)
    bench = tiny() if options.short else cifar()
    if bench is None:
        return
    path = RESULTS / "filters.json"
    results = json.loads(path.read_text()) if path.exists() and not options.short else {}
    for part in options.parts or (part for part in PARTS if part not in NETWORKS or part in bench.large):
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
