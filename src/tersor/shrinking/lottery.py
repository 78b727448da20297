"""Lottery tickets: is it the mask, the weights it was found with, or neither that makes a small network good?

Frankle and Carbin 2019 (The Lottery Ticket Hypothesis), Frankle et al. 2020 (Linear Mode Connectivity: rewinding to an
early step), Liu et al. 2019 (Rethinking the Value of Network Pruning: the small network from scratch).
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibrated import Evaluate, measured
from tersor.columns import numbers_table
from tersor.errors import UsageError
from tersor.pruning import Prune
from tersor.recipe import Recipe
from tersor.shrinking.holding import hold
from tersor.shrinking.matching import as_recipe, weight_plan
from tersor.shrinking.weights import weight_masks
from tersor.work import Work, identity_of

Build = Callable[[int], nn.Module]
"""(seed) -> a network with fresh weights; equal seeds give equal weights."""

Train = Callable[[nn.Module, int, int, "int | None"], object]
"""(network, seed, begin, end): trains it in place from step `begin` to before step `end`; None is the last step. Steps
set what else training depends on (learning rate, order of samples), together with the seed."""

Small = Callable[[nn.Module, float, int], nn.Module]
"""(trained dense network, density, seed) -> a small network with fresh weights."""

ARMS = ("ticket", "reinitialised", "scratch")
"""What is trained at each density, beside the dense network."""

_OTHER_SEED = 1_000_003
"""Added to a seed for weights that are drawn again."""


@dataclass(frozen=True)
class Row:
    """One arm at one density over the seeds.

    density: share of the prunable weights that is left. mean, std: of the metric; the sample's deviation, 0 of one.
    values: by seed, in their order.
    """

    arm: str
    density: float
    mean: float
    std: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Lottery:
    """What `lottery` returns. rows: "dense" first, then by falling density, the arms in the order asked for."""

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    rewind: int

    def row(self, arm: str, density: float | None = None) -> Row:
        """The arm's row whose density is nearest; UsageError for an unknown arm."""
        own = [row for row in self.rows if row.arm == arm]
        if not own:
            raise UsageError(f"lottery: no arm {arm!r}; there are {', '.join(dict.fromkeys(r.arm for r in self.rows))}")
        return min(own, key=lambda row: abs(row.density - (own[0].density if density is None else density)))

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types."""
        rows = [{**asdict(row), "values": list(row.values)} for row in self.rows]
        return {"rewind": self.rewind, "seeds": list(self.seeds), "rows": rows}

    def __str__(self) -> str:
        rows = [[row.arm, f"{row.density:.2%}", f"{row.mean:.4g}", f"{row.std:.2g}"] for row in self.rows]
        return numbers_table(["arm", "left", "mean", "std"], rows)


def lottery(
    build: Build,
    train: Train,
    evaluate: Evaluate,
    *,
    config: Prune | Recipe | None = None,
    rounds: int = 5,
    rewind: int = 0,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] = ARMS,
    small: Small | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Lottery:
    """Trains dense networks, their winning tickets and the controls, at several densities and over several seeds.

    "dense": `build(seed)`, trained.
    "ticket": iterative pruning. A round trains, prunes the share that `config` says of what is left, and puts the
        weights that remain back to what they were at step `rewind`; then these are trained from there.
    "reinitialised": the masks of the ticket, on weights drawn again, trained from the first step.
    "scratch": `small(dense network, density, seed)`; without `small`, masks drawn at random with each tensor's density,
        on weights drawn again. Trained from the first step.

    config: what is kept of the weights that are left, a round, by any criterion that needs no data; by default
        `Prune(density=0.8)`. With a Recipe, layers may have different shares (Frankle and Carbin prune output layers
        at half the rate).
    rounds: densities after the first one. rewind: a step of `train`; 0 is the initialisation.
    evaluate: a network -> a metric, higher is better.
    folder: keeps what was found, so that the same call goes on after an interruption; use another one after a change
        of `build`, `train` or `evaluate`.
    Raises UsageError for bad arguments and patterns that match nothing; CalibrationError where `evaluate` fails;
    OutputError where the folder cannot be written.
    """
    recipe = as_recipe(config or Prune(density=0.8))
    _check(rounds, rewind, seeds, arms)
    work = Work(None, b"")
    if folder is not None:
        settings = (recipe, rewind, small is None)
        work = Work(folder, identity_of(build(seeds[0]), [], settings))
    runs = [_Seed(seed, build, train, evaluate, recipe, rewind, small, work) for seed in seeds]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in runs:
        for number in range(rounds + 1):
            for arm in arms if number else ("dense",):
                found.setdefault((arm, number), []).append(run.result(arm, number))
    return Lottery(tuple(_row(arm, values) for (arm, _), values in found.items()), tuple(seeds), rewind)


def _row(arm: str, found: Sequence[tuple[float, float]]) -> Row:
    densities, values = zip(*found, strict=True)
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Row(arm, statistics.fmean(densities), statistics.fmean(values), std, tuple(values))


@dataclass(frozen=True)
class _Seed:
    """The networks of one seed. found: tensors by what they are, beside those that `work` keeps."""

    seed: int
    build: Build
    train: Train
    evaluate: Evaluate
    recipe: Recipe
    rewind: int
    small: Small | None
    work: Work
    found: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def result(self, arm: str, number: int) -> tuple[float, float]:
        """(density, metric) of an arm after so many rounds."""
        key = f"{arm} {number} {self.seed}"
        masks = self.masks(number)
        metric = self.work.load_number(key)
        if metric is None:
            network = getattr(self, f"_{arm}")(number, masks)
            metric = measured(self.evaluate, network)
            self.work.save_number(key, metric)
        return _density(masks), metric

    def masks(self, number: int) -> dict[str, Tensor]:
        """Of the ticket after so many rounds; all True after none."""
        return self._once(f"masks {number} {self.seed}", lambda: self._pruned(number))

    def _once(self, key: str, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in self.found:
            stored = self.work.load_tensors(key)
            if stored is None:
                stored = {name: value.detach().clone() for name, value in find().items()}
                self.work.save_tensors(key, stored)
            self.found[key] = stored
        return self.found[key]

    def _pruned(self, number: int) -> dict[str, Tensor]:
        if number == 0:
            fresh = self.build(self.seed)
            plan, shapes = weight_plan(fresh, self.recipe), dict(fresh.named_parameters())
            return {name: torch.ones(shapes[name].shape, dtype=torch.bool) for name in plan}
        before = self.masks(number - 1)
        network = self._trained(number - 1, before)
        powers = {name: _power(name, option, number) for name, option in weight_plan(network, self.recipe).items()}
        return {name: mask & before[name] for name, mask in weight_masks(network, powers).masks.items()}

    def _trained(self, number: int, masks: dict[str, Tensor]) -> nn.Module:
        """The ticket after so many rounds, trained: the next round's masks come from its weights."""

        def state() -> dict[str, Tensor]:
            self.train(network, self.seed, self.rewind, None)
            return network.state_dict()

        network = self._early()
        hold(network, masks)
        network.load_state_dict(self._once(f"trained {number} {self.seed}", state))
        return network

    def _early(self) -> nn.Module:
        """The network at the step that tickets go back to."""

        def state() -> dict[str, Tensor]:
            self.train(network, self.seed, 0, self.rewind)
            return network.state_dict()

        network = self.build(self.seed)
        if self.rewind:
            network.load_state_dict(self._once(f"early {self.seed}", state))
        return network

    def _dense(self, number: int, masks: dict[str, Tensor]) -> nn.Module:
        return self._trained(0, masks)

    def _ticket(self, number: int, masks: dict[str, Tensor]) -> nn.Module:
        return self._trained(number, masks)

    def _reinitialised(self, number: int, masks: dict[str, Tensor]) -> nn.Module:
        return self._from_scratch(self.build(self.seed + _OTHER_SEED), masks)

    def _scratch(self, number: int, masks: dict[str, Tensor]) -> nn.Module:
        seed = self.seed + _OTHER_SEED
        if self.small is not None:
            dense = self._trained(0, self.masks(0))
            return self._from_scratch(self.small(dense, _density(masks), seed), {})
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name, mask in masks.items():
            flat = torch.zeros(mask.numel(), dtype=torch.bool)
            flat[torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]] = True
            drawn[name] = flat.reshape(mask.shape)
        return self._from_scratch(self.build(seed), drawn)

    def _from_scratch(self, network: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
        hold(network, masks)
        self.train(network, self.seed, 0, None)
        return network


def _power(name: str, option: Prune, number: int) -> Prune:
    """The option after so many rounds: each keeps its density of what is left."""
    if option.density is None:
        raise UsageError(f"lottery: the config of {name!r} must say a density, what a round keeps; got {option}")
    return replace(option, density=option.density**number)


def _density(masks: dict[str, Tensor]) -> float:
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / total if total else math.nan


def _check(rounds: int, rewind: int, seeds: Sequence[int], arms: Sequence[str]) -> None:
    for name, value, low in (("rounds", rounds, 1), ("rewind", rewind, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UsageError(f"lottery: {name} must be an integer of at least {low}, got {value!r}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"lottery: seeds must be one or more different integers, got {seeds!r}")
    if isinstance(arms, str) or not arms or any(arm not in ARMS for arm in arms):
        raise UsageError(f"lottery: arms must be some of {', '.join(ARMS)}, got {arms!r}")
