"""ResNet-20 and half-width VGG-16 on CIFAR-10, 25 to 250 times smaller: rate-aware training with batch norms.

    TERSOR_DATA=... python -m examples.rate_aware_cifar [--short] [--seeds N] [NETWORK ...]

writes examples/results/rate_aware_cifar.json. Bytes are those of whole .tsr files on disk, which rebuild the original
class. A goal is a size and the points of accuracy that it may cost against the float network of the same recipe: the
same weights to start from, trained as long on the same pictures, mirrored and shifted. That network also teaches the
small one. VGG-16 loses half of the channels of its last six layers first, as in Li et al. (2017). Each goal takes one
training, in which `sessions.SizeControl` moves the multiplier so that it ends at the size. Test images are looked at
once, in the end.

Budget: one core; about half an hour for each training: of the float network and for each goal, twice each for VGG-16,
after 35 minutes for `benchmarks.vgg`. What is done is kept, and an interrupted run goes on from the last epoch.
`--short` runs on scikit-learn's digits in seconds, proves no number and writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

import tersor
from benchmarks import vgg
from benchmarks.journal import Journal, work_folder
from benchmarks.machine import write_results
from benchmarks.mnist import digits
from benchmarks.networks import networks as known_networks
from benchmarks.ratetraining import fitting, strong
from benchmarks.sources import ResNetCifar, cifar10_test, cifar10_train
from benchmarks.training import Images, Plan, Split, accuracy, divided, seeded, summary
from examples.loop import Guide, file_bytes, opened, settle_batch_norms, train
from tersor.calibration.adjacent import adjacent
from tersor.calibration.batchnorm import BATCH_NORMS
from tersor.model import CompressedModel
from tersor.pruning import PruneChannels
from tersor.quantization import Quantize
from tersor.recipe import Rule
from tersor.sessions import packed
from tersor.sessions.finalizing import compressed_model
from tersor.sessions.plan import plain_name
from tersor.simulation import RateAware
from tersor.simulation.rate import RateSimulation
from tersor.tensors import Uniform
from tersor.training import Distill, Distillation

SEEDS = (0, 1, 2)
VALIDATION = 2_000
"""Training images kept for choices: those of benchmarks.vgg."""
SIZE = 0.05
"""Root mean square of each weight before training: Adam then moves all layers by the same share."""
AIM = 0.985
"""Of the bytes allowed, what a training aims at. It ends some percent beside that; `fitted` sees to the rest, which
costs more accuracy than bytes left over."""
REPAIR = 512
"""Training images that channels are removed, and others repaired, by."""
ROUND = 100
"""Between the seeds of a round's and the next one's order of images."""
STEPS = "|step"
STORED = "|stored"


@dataclass(frozen=True)
class Goal:
    """A file `times` smaller than the float32 parameters, that costs at most `points` of accuracy in percent."""

    times: float
    points: float


@dataclass(frozen=True)
class Study:
    """A network, its goals, and how each is trained.

    start: (training images) -> the float network. plan: of each goal, and of the float network that all are held
    against. rounds: trainings by the plan, one after the other, of the float network and for each goal.
    multiplier: nats a bit, where the first goal starts from, and the others in proportion to `times`. rest: bytes of
    the file that no weights take. removed: channels that go before a goal's training. warm: each goal's training but
    the first starts from the network of the goal before.
    vectors: nats a bit, at which factors and shifts are rounded. distilled: share of the teacher's predictions.
    """

    name: str
    build: Callable[[], nn.Module]
    start: Callable[[Images], nn.Module]
    goals: tuple[Goal, ...]
    plan: Plan
    multiplier: float
    rest: int
    removed: PruneChannels | None = None
    rounds: int = 1
    warm: bool = False
    vectors: float = 3e-7
    distilled: float = 0.7
    temperature: float = 2.0

    @property
    def original_bytes(self) -> int:
        """Of the parameters in float32."""
        return 4 * sum(parameter.numel() for parameter in self.build().parameters())

    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, JSON-able."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("build", "start")}
        removed = None if self.removed is None else self.removed.to_dict()
        goals = [dataclasses.asdict(goal) for goal in self.goals]
        return {**fields, "plan": dataclasses.asdict(self.plan), "goals": goals, "removed": removed}


def resnet20(_: Images) -> nn.Module:
    """The fine-tuned weights below TERSOR_DATA."""
    found = known_networks().get("ResNet-20")
    if found is None:
        raise SystemExit("ResNet-20 was not found below TERSOR_DATA; --short needs no data")
    return found.build()


STUDIES = (
    Study(
        "ResNet-20",
        functools.partial(ResNetCifar, 3),
        resnet20,
        (Goal(25, 0.5), Goal(35, 0.5)),
        Plan(12, 1.5e-3, 128, augment=True),
        multiplier=1e-6,
        rest=1_700,
        warm=True,
    ),
    Study(
        "VGG-16",
        vgg.HalfVGG,
        vgg.trained,
        (Goal(120, 0.5), Goal(250, 1.5)),
        Plan(7, 1.5e-3, 128, augment=True),
        multiplier=5e-7,
        rest=500,
        removed=PruneChannels(ratio=0.5, match=vgg.LAST_SIX),
        rounds=2,
        warm=True,
        vectors=1e-6,
    ),
)


@torch.no_grad()
def balanced(model: nn.Module, images: Tensor) -> None:
    """Scales the weights before batch norms, in place, so that the network computes the same.

    A batch norm undoes whatever its channel was multiplied by. Rows take over its factor, so that one step suits all
    of them (docs/calibration.md, folding); then tensors get the root mean square `SIZE`.
    """
    for name, layer in adjacent(model, images, 0).items():
        norm, weight = model.get_submodule(name), model.get_submodule(layer).weight
        assert isinstance(norm, BATCH_NORMS) and norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
        scale = scale.clamp(min=1e-3 * float(scale.max()))
        rows = (-1, *[1] * (weight.dim() - 1))
        scale *= SIZE / (weight * scale.reshape(rows)).square().mean().sqrt()
        weight.mul_(scale.reshape(rows))
        norm.running_mean.mul_(scale)
        norm.running_var.copy_(((norm.running_var + norm.eps) * scale.square() - norm.eps).clamp_(min=0.0))


def rules(model: nn.Module, multiplier: float, steps: Mapping[str, Tensor] | None = None) -> list[Rule]:
    """Rate-aware training of all weights, from steps that were learned before if there are any, by name."""
    chosen = []
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            size = float(weight.detach().square().mean().sqrt())
            start = 1.0 if steps is None else float(steps[name]) / size
            config = RateAware(multiplier=multiplier, ramp=0.05, start=start)
            chosen.append(Rule(name, Quantize(bits=8, granularity="tensor"), train=config))
    return chosen


def begun(study: Study, network: nn.Module, images: Tensor) -> nn.Module:
    """What a goal's training starts from: a copy of the float network, without the channels that go at first."""
    if study.removed is None:
        return copy.deepcopy(network)
    samples = list(images[:REPAIR].split(128))
    return tersor.prune(network, study.removed, example_inputs=images[:1], calibration=samples, repair=True).finalize()


def small(
    study: Study,
    goal: Goal,
    start: nn.Module,
    teacher: nn.Module,
    data: Images,
    seed: int,
    state: Path,
    before: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """The tensors of the network trained for a goal, with the steps of its weights and what the optimizer moved.

    start: what `begun` gives; it stays as it is. before: what this gave for a larger goal, to go on from.
    """
    model, steps = copy.deepcopy(start), None
    if before is not None:
        plain, steps, stored = _parts(before)
        model.load_state_dict({**plain, **stored})
    multiplier = study.multiplier * goal.times / study.goals[0].times
    model.to(memory_format=torch.channels_last)
    teacher.to(memory_format=torch.channels_last)
    kept: dict[str, Tensor] = {}

    def ending(trained: nn.Module) -> None:
        for name, chain in trained.named_modules():
            if isinstance(chain, ParametrizationList) and isinstance(chain[0], RateSimulation):
                weight = plain_name(f"{name}.original")
                kept[weight + STORED] = chain.original.detach().clone()
                kept[weight + STEPS] = chain[0].step().detach()

    teaching = Distillation(model, teacher, Distill(study.temperature, study.distilled)) if study.distilled else None
    guide = Guide(teaching, round(AIM * study.original_bytes / goal.times) - study.rest)
    chosen = rules(model, multiplier, steps)
    train(model, chosen, data, study.plan, seed, state=state, settle=True, ending=ending, guide=guide)
    return {**model.state_dict(), **kept}


def content(study: Study, start: nn.Module, trained: Mapping[str, Tensor], images: Tensor) -> CompressedModel:
    """Of the file of a trained network: each weight on the grid of one step, and all packed.

    start: the network that it was before, for its structure.
    """
    plain, steps, _ = _parts(trained)
    model = copy.deepcopy(start)
    model.load_state_dict(plain)
    weights = {name: _uniform(model.get_parameter(name).detach(), step) for name, step in steps.items()}
    whole = compressed_model(model, weights)
    return packed(model, whole, images.split(100), vectors=study.vectors, tolerance=1e-3)


def fitted(
    study: Study, goal: Goal, start: nn.Module, trained: Mapping[str, Tensor], images: Tensor
) -> CompressedModel:
    """`content`, small enough for the goal: else a hundredth of the weights goes at a time, up to a tenth of them.

    images: of the training. Batch norms get the moments that they see without these weights: ResNet-20 lost four points
    with 5 % of its weights where they did not.
    """

    def without(share: float) -> CompressedModel:
        if not share:
            return content(study, start, trained, images[:500])
        left = trimmed(trained, share)
        model = copy.deepcopy(start)
        model.load_state_dict(_parts(left)[0])
        settle_batch_norms(model, images, study.plan.batch)
        return content(study, start, {**left, **model.state_dict()}, images[:500])

    return fitting(without, lambda found: file_bytes(found) * goal.times <= study.original_bytes, 10)


def trimmed(trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Without that share of the weights that are not zero: those the optimizer left nearest to it, in steps."""
    plain, steps, stored = _parts(trained)
    distances = {name: (stored[name] / step).abs() * (plain[name] != 0) for name, step in steps.items()}
    stay = strong(distances, share)
    return {**trained, **{name: plain[name] * stay[name] for name in steps}}


def _uniform(weight: Tensor, step: Tensor) -> Uniform:
    """The codes of a weight that lies on the grid of one step, a bfloat16 number."""
    codes = (weight / step).round().to(torch.int8).contiguous()
    base = step.reshape(1, 1).bfloat16()
    return Uniform(weight.shape, weight.dtype, None, 8, codes, base.float(), None, 0, base=base)


def _parts(flat: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Of what `small` gives: the tensors, the steps, what the optimizer moved; by the weights' names."""
    plain = {name: tensor for name, tensor in flat.items() if "|" not in name}
    steps, stored = (
        {name.removesuffix(end): tensor for name, tensor in flat.items() if name.endswith(end)}
        for end in (STEPS, STORED)
    )
    return plain, steps, stored


def measure(study: Study, seeds: Sequence[int], data: Split) -> dict[str, Any]:
    """Bytes and accuracies over seeds, of each goal and of the float network it is held against."""
    plan = [study.settings(), len(data.train[1])]
    journal, folder = Journal("rate_aware_cifar", plan), work_folder("rate_aware_cifar", plan)
    rows = [row for seed in seeds for row in _rows(study, seed, data, journal, folder)]
    return {
        "network": study.name,
        "seeds": list(seeds),
        "settings": study.settings(),
        "original_bytes": study.original_bytes,
        "start_test": accuracy(study.start(data.train), data.test),
        "goals": [_reached(study, goal, [row for row in rows if row["times"] == goal.times]) for goal in study.goals],
        "rows": rows,
    }


def _rows(study: Study, seed: int, data: Split, journal: Journal, folder: Path) -> list[dict[str, Any]]:
    """Bytes of the file and accuracies in percent, for each goal."""
    rows = []
    original = copy.deepcopy(study.start(data.train))
    balanced(original.eval(), data.train[0][:100])
    start = begun(study, original, data.train[0])
    references = _floats(study, original, data.train, seed, journal, folder)
    reference = references[-1]
    before: Mapping[str, Tensor] | None = None
    for goal in study.goals:
        before = before if study.warm else None
        for number, teacher in enumerate(references):
            key = _key(study, seed, f"{goal.times:g}", number)
            state, order = folder / f"{key} state", seed + ROUND * number
            work = functools.partial(
                small, study, goal, start, copy.deepcopy(teacher), data.train, order, state, before
            )
            before = trained = journal.tensors(key, work)
        size, model = opened(fitted(study, goal, start, trained, data.train[0]), study.build)
        networks = {"": model, "float_": reference}
        parts = {"validation": data.validation, "test": data.test}
        found = {f"{kind}{part}": accuracy(m, parts[part]) for kind, m in networks.items() for part in parts}
        rows.append({"seed": seed, "times": goal.times, "bytes": size, **found})
        print(f"  {study.name} {seed} {goal.times:g}: {rows[-1]}", flush=True)
    return rows


def _floats(study: Study, start: nn.Module, data: Images, seed: int, journal: Journal, folder: Path) -> list[nn.Module]:
    """The float network trained on for as long as a goal takes, after each round."""
    found: list[nn.Module] = []
    for number in range(study.rounds):
        key = _key(study, seed, "float", number)

        def work(model: nn.Module, key: str = key, number: int = number) -> None:
            model.load_state_dict((found[-1] if found else start).state_dict())
            model.to(memory_format=torch.channels_last)
            order = seed + ROUND * number
            train(model, [], data, study.plan, order, state=folder / f"{key} state", settle=True)

        network = journal.network(key, study.build(), work)
        found.append(network.to(memory_format=torch.contiguous_format).eval())
    return found


def _key(study: Study, seed: int, what: str, number: int) -> str:
    """In the journal."""
    return f"{study.name} {seed} {what}" + (f" again {number}" if number else "")


def _reached(study: Study, goal: Goal, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A goal with what was found over seeds; accuracies in percent."""
    lost = summary([row["float_test"] - row["test"] for row in rows])
    times = [study.original_bytes / row["bytes"] for row in rows]
    columns = {name: summary([row[name] for row in rows]) for name in ("bytes", "test", "float_test")}
    met = min(times) >= goal.times and lost["mean"] <= goal.points
    return {**dataclasses.asdict(goal), **columns, "reached": summary(times), "lost": lost, "met": met}


def show(result: dict[str, Any]) -> None:
    """As plain text."""
    print(f"\n{result['network']}, {result['original_bytes']:,} bytes, {len(result['seeds'])} seeds")
    for goal in result["goals"]:
        size, times, test, wanted, lost = (goal[k] for k in ("bytes", "reached", "test", "float_test", "lost"))
        print(
            f"{goal['times']:>5g}x {size['mean']:10,.0f} bytes {times['mean']:6.1f}x  {test['mean']:5.2f} % of "
            f"{wanted['mean']:5.2f} %: lost {lost['mean']:5.2f} ± {lost['std']:4.2f} points, allowed "
            f"{goal['points']:g}  {'met' if goal['met'] else 'missed'}"
        )


class Tiny(nn.Module):
    """Two convolutions with batch norms, for short runs. Images (N, 1, 28, 28) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x).mean((2, 3)))


def tiny(data: Images) -> nn.Module:
    """Trained for a few epochs."""
    model = seeded(Tiny, 0)
    train(model, [], data, Plan(4, 1e-2, 32), 0)
    return model


SHORT = Study(
    "Tiny",
    Tiny,
    tiny,
    (Goal(6, 30), Goal(8, 40)),
    Plan(2, 5e-3, 16),
    multiplier=1e-5,
    rest=500,
    removed=PruneChannels(ratio=0.25, match=("features.3.weight",)),
    rounds=2,
    warm=True,
)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description="ResNet-20 and VGG-16 in small files")
    parser.add_argument("--short", action="store_true", help="digits of scikit-learn, seconds")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("networks", nargs="*", help="ResNet-20, VGG-16; both if none is named")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.short:
        result = measure(SHORT, SEEDS[:1], digits())
        show(result)
        return [result]
    test = cifar10_test()
    if test is None:
        raise SystemExit("CIFAR-10 was not found below TERSOR_DATA; --short needs no data")
    data = Split(*divided(cifar10_train(range(50_000)), VALIDATION), test)
    results = []
    for study in STUDIES:
        if not options.networks or study.name in options.networks:
            results.append(measure(study, SEEDS[: options.seeds], data))
            show(results[-1])
    write_results("rate_aware_cifar", {"results": results}, "examples")
    return results


if __name__ == "__main__":
    main()
