"""Rate-aware training of whole networks (docs/rate-aware.md): stages that start from one another, without dead units.

Tensors keep the shapes of the original class; each epoch trains a copy without what is dead, so that epochs get short.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import tersor
from benchmarks.training import Images
from tersor.container.writer import Entry, file_bytes
from tersor.quantization import Quantize
from tersor.sessions.size_control import steered, wanted_bytes
from tersor.shrinking.dead import dead_units, fold_dead
from tersor.simulation.base import Clock
from tersor.simulation.rate import RateAware, RateSimulation
from tersor.structure.cuts import cut, embedded, selected_cuts, taken
from tersor.structure.edits import Edits
from tersor.structure.groups import Groups, find_groups
from tersor.structure.order import alike, permuted
from tersor.structure.trace import trace
from tersor.training.distill import soft_targets

N = TypeVar("N")

_GAINS = 3.0, 0.6
"""Of the controller: less than `SizeControl`'s, since a whole epoch lies between two measurements."""
_REPRESENTATION = Quantize(bits=8, granularity="tensor")


@dataclass(frozen=True)
class Stage:
    """One training. epochs: whole passes. rate: of AdamW at the start; it falls to nothing in half a cosine.

    multiplier: nats a bit, 0 for a training of the float network. biases: share of it for vectors, which take few bytes
    and are soon missed. shifts: images move by up to one pixel.
    distilled: weight of the teacher's predictions at `temperature`, where there is a teacher.
    max_bytes: of the file: the multiplier is moved after each epoch, as `sessions.SizeControl` does it, so that the
    training ends a few percent beside the share `margin` of it, which is reached in the share `arrives` of the epochs.
    """

    epochs: int
    rate: float = 1.5e-3
    batch: int = 128
    multiplier: float = 1e-5
    ramp: float = 0.3
    settle: float = 0.0
    biases: float = 0.1
    decay: float = 0.0
    shifts: bool = True
    distilled: float = 0.0
    temperature: float = 2.0
    max_bytes: int | None = None
    arrives: float = 0.35
    margin: float = 0.95


@dataclass(frozen=True)
class Weights:
    """A network between two epochs: all tensors have the shapes of the original class.

    tensors: what is stored, by name. log_steps: natural logarithms of the steps, empty before rate-aware training.
    moments: AdamW's two, by name, and how many steps it did.
    """

    tensors: Mapping[str, Tensor]
    log_steps: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    steps: int = 0

    def flat(self) -> dict[str, Tensor]:
        """Tensors and steps in one mapping, without the moments."""
        return {**self.tensors, **{f"{name}|log_step": step for name, step in self.log_steps.items()}}

    @classmethod
    def of(cls, flat: Mapping[str, Tensor]) -> Weights:
        """The inverse of `flat`."""
        steps = {name.removesuffix("|log_step"): tensor for name, tensor in flat.items() if name.endswith("|log_step")}
        return cls({name: tensor for name, tensor in flat.items() if not name.endswith("|log_step")}, steps)


class Pictures:
    """Images and labels in batches, each image moved by up to one pixel if asked for; a teacher's logits beside them.

    teacher: a network, asked once for each image and each move.
    """

    def __init__(self, data: Images, shifts: bool, teacher: nn.Module | None = None) -> None:
        images, self.labels = data
        border = int(shifts)
        padded = F.pad(images, (border,) * 4, value=float(images.min()))
        self.windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
        self.moves = 2 * border + 1
        self.logits = None if teacher is None else self._logits(teacher)

    @torch.no_grad()
    def _logits(self, teacher: nn.Module) -> Tensor:
        """(images, moves, moves, classes)."""
        teacher.eval()
        rows = []
        for part in self.windows.split(250):
            several = part.movedim(1, 3).flatten(0, 2)
            rows.append(teacher(several.contiguous()).reshape(*part.shape[:1], self.moves, self.moves, -1))
        return torch.cat(rows)

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """(images, labels, teacher's logits)."""
        y, x = torch.randint(0, self.moves, (2, len(chosen)), generator=generator)
        logits = None if self.logits is None else self.logits[chosen, y, x]
        images = self.windows[chosen, :, y, x].contiguous(memory_format=torch.channels_last)
        return images, self.labels[chosen], logits


class Trainer:
    """Trains networks of one class, `build()`, on pictures. Groups are found once."""

    def __init__(self, build: Callable[[], nn.Module], pictures: Pictures, fold: bool = True) -> None:
        self.build, self.pictures, self.fold = build, pictures, fold
        self.examples = pictures.windows[:64, :, 0, 0].contiguous()
        self.groups: Groups = find_groups(trace(build(), (self.examples[:2],)))

    def run(
        self, start: Weights, stage: Stage, seed: int, report: Callable[[int, Weights], None] | None = None
    ) -> Weights:
        """A stage from `start` on; `report` is told after each epoch."""
        weights = dataclasses.replace(start, moments={}, steps=0)
        control = None if stage.max_bytes is None else _Control(self, stage)
        for epoch in range(stage.epochs):
            weights = self._epoch(weights, stage, epoch, seed)
            if self.fold and stage.multiplier:
                weights = self.folded(weights, constants=epoch + 1 < stage.epochs)
            if control is not None:
                stage = control.next(stage, weights, (epoch + 1) / stage.epochs)
            if report is not None:
                report(epoch, weights)
        return weights

    def quantized(self, weights: Weights) -> nn.Module:
        """The network as the file will hold it."""
        model = self.build()
        simulations = simulations_of(weights)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                stored = weights.tensors[name]
                parameter.copy_(simulations[name](stored) if name in simulations else stored)
        return model.eval()

    def folded(self, weights: Weights, constants: bool) -> Weights:
        """Without what dead units do: their weights are zero, their constants in the biases that are stored."""
        model = self.quantized(weights)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        after = fold_dead(model, self.groups, (self.examples,), constants=constants, inplace=True).model.state_dict()
        tensors = {}
        for name, stored in weights.tensors.items():
            moved = torch.where(after[name] == 0, 0.0, stored + after[name] - before[name])
            tensors[name] = torch.where(after[name] == before[name], stored, moved)
        return dataclasses.replace(weights, tensors=tensors)

    def _epoch(self, weights: Weights, stage: Stage, epoch: int, seed: int) -> Weights:
        cuts = {}
        if stage.multiplier and self.fold:
            whole = self.quantized(weights)
            cuts = selected_cuts(whole, dead_units(whole, self.groups), self.groups)
        model = self.build()
        cut(model, cuts, Edits())
        model.load_state_dict({name: taken(name, tensor, cuts) for name, tensor in weights.tensors.items()})
        model.to(memory_format=torch.channels_last).train()
        stored = dict(model.named_parameters())
        simulations = _attached(model, weights, stage, cuts)
        optimizer = _optimizer(stored, simulations, weights, stage, cuts)
        done = self._steps(model, stored, simulations, optimizer, stage, epoch, seed)
        moments = {
            name: tuple(embedded(name, optimizer.state[p][key].contiguous(), cuts) for key in ("exp_avg", "exp_avg_sq"))
            for name, p in stored.items()
        }
        for name, simulation in simulations.items():
            state = optimizer.state[simulation.log_step]
            moments[f"{name}.log_step"] = (state["exp_avg"], state["exp_avg_sq"])
        return Weights(
            {name: embedded(name, p.detach().contiguous(), cuts) for name, p in stored.items()},
            {name: simulation.log_step.detach().clone() for name, simulation in simulations.items()},
            moments,  # type: ignore[arg-type]
            done,
        )

    def _steps(
        self,
        model: nn.Module,
        stored: Mapping[str, nn.Parameter],
        simulations: Mapping[str, RateSimulation],
        optimizer: torch.optim.Optimizer,
        stage: Stage,
        epoch: int,
        seed: int,
    ) -> int:
        """The steps of an epoch; how many were done since the stage began."""
        count = len(self.pictures.labels)
        each = max(count // stage.batch, 1)
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(count, generator=generator)
        for step in range(epoch * each, (epoch + 1) * each):
            part = order[(step - epoch * each) * stage.batch :][: stage.batch]
            images, labels, wanted = self.pictures.batch(part, generator)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            if wanted is not None and stage.distilled:
                apart = soft_targets(logits, wanted, stage.temperature)
                loss = (1 - stage.distilled) * loss + stage.distilled * apart
            clock = Clock(step, stage.epochs * each)
            for name, simulation in simulations.items():
                penalty = simulation.penalty(stored[name], clock)
                loss = loss if penalty is None else loss + penalty
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = stage.rate * (1 + math.cos(math.pi * clock.part)) / 2
            optimizer.step()
            clock = Clock(step + 1, stage.epochs * each)
            for name, simulation in simulations.items():
                simulation.after_step(stored[name], None, clock)
        return (epoch + 1) * each


class _Control:
    """Moves the multiplier of a stage from epoch to epoch, so that the file ends at its `max_bytes`."""

    def __init__(self, trainer: Trainer, stage: Stage) -> None:
        self.trainer, self.multiplier = trainer, stage.multiplier
        self.first, self.total = 0, 0.0

    def next(self, stage: Stage, weights: Weights, part: float) -> Stage:
        """The stage as the next epoch has it, when the share `part` of the training is over."""
        assert stage.max_bytes is not None
        size = file_bytes(compressed(ordered(self.trainer, weights)).entries)
        self.first = self.first or size
        goal = stage.margin * stage.max_bytes
        wanted = wanted_bytes(self.first, goal, part, stage.arrives, power=1.0, slack=1.0)
        logarithm, self.total = steered(size, wanted, self.total, *_GAINS)
        return dataclasses.replace(stage, multiplier=self.multiplier * math.exp(logarithm), ramp=0.0)


def config_of(stage: Stage, tensor: Tensor) -> RateAware:
    """How a tensor is trained: biases go on coming and going to the end."""
    bias = tensor.dim() == 1
    return RateAware(
        multiplier=stage.multiplier * (stage.biases if bias else 1.0),
        ramp=stage.ramp,
        settle=0.0 if bias else stage.settle,
    )


def simulations_of(weights: Weights, stage: Stage | None = None) -> dict[str, RateSimulation]:
    """By tensor, with the steps that were learned."""
    found = {}
    for name, log_step in weights.log_steps.items():
        tensor = weights.tensors[name]
        simulation = config_of(stage or Stage(1), tensor).simulate(tensor, _REPRESENTATION, None)
        with torch.no_grad():
            simulation.log_step.copy_(log_step)
        simulation.refit(weights.tensors[name])
        found[name] = simulation
    return found


def _attached(model: nn.Module, weights: Weights, stage: Stage, cuts: Mapping) -> dict[str, RateSimulation]:
    """The simulations of all parameters, registered; none for a training of the float network."""
    if not stage.multiplier:
        return {}
    if not weights.log_steps:
        found = {name: config_of(stage, p).simulate(p, _REPRESENTATION, None) for name, p in model.named_parameters()}
    else:
        small = {name: taken(name, tensor, cuts) for name, tensor in weights.tensors.items()}
        found = simulations_of(dataclasses.replace(weights, tensors=small), stage)
    for name, simulation in found.items():
        path, _, own = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(path), own, simulation)
    return found


def _optimizer(
    stored: Mapping[str, nn.Parameter],
    simulations: Mapping[str, RateSimulation],
    weights: Weights,
    stage: Stage,
    cuts: Mapping,
) -> torch.optim.Optimizer:
    named = {**stored, **{f"{name}.log_step": simulation.log_step for name, simulation in simulations.items()}}
    optimizer = torch.optim.AdamW(named.values(), stage.rate, betas=(0.9, 0.99), weight_decay=stage.decay, fused=True)
    for name, parameter in named.items():
        if name in weights.moments:
            first, second = (taken(name, moment, cuts).clone() for moment in weights.moments[name])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(weights.steps)),
                "exp_avg": first,
                "exp_avg_sq": second,
            }
    return optimizer


@torch.no_grad()
def strongest(trainer: Trainer, weights: Weights, keep: Mapping[str, int]) -> Weights:
    """Without all but `keep` units of each group: those of the largest |w_in| |w_out|, the norms of what computes and
    what reads a unit. What goes is zero, so that training begins with the smaller network."""
    model = trainer.build()
    model.load_state_dict(dict(weights.tensors))
    for group in trainer.groups.groups:
        if group.name not in keep:
            continue
        squares = {role: torch.zeros(group.units) for role in ("output", "input")}
        for member in group.members:
            if member.role in squares:
                tensor = weights.tensors[member.tensor].movedim(member.dim, 0).flatten(1).square().sum(1)
                squares[member.role] += torch.stack([tensor[list(places)].sum() for places in member.indices])
        worth = squares["output"] * squares["input"]
        gone = worth.argsort(descending=True)[keep[group.name] :].tolist()
        for name, dim in {(member.tensor, member.dim) for member in group.members}:
            own = next(m for m in group.members if (m.tensor, m.dim) == (name, dim))
            places = torch.tensor([place for unit in gone for place in own.indices[unit]], dtype=torch.int64)
            model.get_parameter(name).index_fill_(dim, places, 0.0)
    return Weights({name: parameter.detach().clone() for name, parameter in model.named_parameters()})


def ordered(trainer: Trainer, weights: Weights) -> Weights:
    """With units beside those that are alike, as far as codes are not zero: the same network, in fewer bytes."""
    orders = alike(trainer.quantized(weights).state_dict(), trainer.groups)
    return dataclasses.replace(weights, tensors=permuted(weights.tensors, trainer.groups, orders), moments={})


def strong(distances: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Where codes stay, bool, if that share of those that are not zero goes: the nearest to it.

    distances: of the weights from zero, in steps; 0 where the code is.
    """
    living = torch.cat([distance[distance > 0] for distance in distances.values()])
    least = living.kthvalue(max(round(share * living.numel()), 1)).values
    return {name: distance > least for name, distance in distances.items()}


def trimmed(weights: Weights, share: float) -> Weights:
    """Without that share of the codes that are not zero: those whose weights lie nearest to it, in steps."""
    simulations = simulations_of(weights)
    distances = {
        name: (tensor / simulations[name].step().detach()).abs() * (simulations[name].codes(tensor) != 0)
        for name, tensor in weights.tensors.items()
    }
    stay = strong(distances, share)
    tensors = {name: tensor * stay[name] for name, tensor in weights.tensors.items()}
    return dataclasses.replace(weights, tensors=tensors, moments={})


def fitting(without: Callable[[float], N], fits: Callable[[N], bool], hundredths: int) -> N:
    """Without as many hundredths of the codes, so many at most, as keep a file from fitting.

    without: share -> what is left without it; all of it for 0. Whether the last one fits is not known.
    """
    left = without(0.0)
    for gone in range(1, hundredths + 1):
        if fits(left):
            break
        left = without(gone / 100)
    return left


def compressed(weights: Weights) -> tersor.CompressedModel:
    """The network for `tersor.save`, in the shapes of the original class."""
    simulations = simulations_of(weights)
    entries = [Entry(name, simulations[name].compressed(tensor, None)) for name, tensor in weights.tensors.items()]
    original = sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values())
    return tersor.CompressedModel(tuple(entries), original_bytes=original)
