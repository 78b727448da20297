"""One pass of pruning over a network: the configs, in order, each as far as a step of a schedule says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration import batchnorm
from tersor.calibration.copying import copied
from tersor.calibration.guard import untouched
from tersor.errors import UsageError
from tersor.pruning import Prune, PruneBlocks, PruneChannels
from tersor.recipe import Recipe, TensorKey
from tersor.shrinking.blocks import Residual, residual, without_blocks
from tersor.shrinking.channels import score_groups
from tersor.shrinking.compensation import compensate
from tersor.shrinking.holding import hold, masks_of, release, write
from tersor.shrinking.losses import Loss, answer, unlabelled
from tersor.shrinking.matching import Removal, Step, tensor_keys, weight_plan
from tersor.shrinking.removal import Origin, Removed, follow, origin_of, remove_channels, units_before
from tersor.shrinking.weights import Data, input_statistics, reconstructed, weight_evidence, weight_masks
from tersor.structure.carried import manifest_of
from tersor.structure.groups import Group

At = Callable[[float], float]
"""What is to be left in the end -> what is to be left now."""


def at_once(final: float) -> float:
    """All in one step."""
    return final


@dataclass(frozen=True)
class Passed:
    """model: with its masks held. notes: as of `Pruned`.

    units: of groups that lost some, what they had before pruning began and what they have now.
    floors: of tensors and groups that keep more than was asked for, how much.
    """

    model: nn.Module
    units: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    floors: Mapping[str, str]


class Passes:
    """Passes over one network. Mutable: what shares are shares of is found in the first one.

    args, kwargs: of one call; None where only weights are pruned.
    repair: whether what stays makes good for what goes, as far as samples tell.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        data: Data,
        *,
        repair: bool = False,
    ) -> None:
        self.steps = tuple(steps)
        self.args, self.kwargs = args, kwargs
        self.data = data
        self.repair = repair
        self._origin: Origin | None = None
        self._tensors: Sequence[TensorKey] = ()
        self._groups: tuple[Group, ...] = ()
        self._blocks: dict[Removal, Residual] = {}

    def run(self, model: nn.Module, at: At = at_once) -> Passed:
        """All steps, in order. `model` is changed, or replaced by a smaller one."""
        units: dict[str, tuple[int, int]] = {}
        notes: list[str] = []
        floors: dict[str, str] = {}
        for step in self.steps:
            if isinstance(step, Recipe):
                floors.update(self.prune_weights(model, self.plan(model, step), at))
            else:
                found = self.remove(model, step, at)
                model = found.model
                units.update(found.units)
                notes += found.notes
                floors.update(found.floors)
        return Passed(model, units, tuple(notes), floors)

    def plan(self, model: nn.Module, recipe: Recipe) -> dict[str, Prune]:
        """`weight_plan`, with patterns that may speak of tensors that went on the way."""
        self._tensors = self._tensors or tensor_keys(model)
        return weight_plan(model, recipe, self._tensors)

    def prune_weights(self, model: nn.Module, plan: Mapping[str, Prune], at: At = at_once) -> dict[str, str]:
        """Holds the model's weights at new masks, in place; gives floors. What is pruned already stays so."""
        steps = {n: o if o.density is None else replace(o, density=at(o.density)) for n, o in plan.items()}
        plain = copied(model)
        before = release(plain)
        statistics = input_statistics(plain, steps, self.data, repair=self.repair)
        found = weight_masks(model, steps, weight_evidence(plain, steps, self.data, statistics))
        masks = {name: mask & before[name].cpu() if name in before else mask for name, mask in found.masks.items()}
        for name, (mask, weight) in reconstructed(plain, steps, masks, statistics, repair=self.repair).items():
            masks[name] = mask
            write(model, name, weight)
        hold(model, masks)
        return found.floors

    def remove(
        self, model: nn.Module, removal: Removal, at: At = at_once, only: Collection[str] | None = None
    ) -> Passed:
        """A smaller copy of `model`; masks are cut with their weights, or go with them.

        only: names of the groups that may lose units. `model` is as it was in the end, errors included.
        """
        if self.args is None and self.kwargs is None:
            raise UsageError(f"{removal.options.name} needs example_inputs: what one call of the model takes")
        self._tensors = self._tensors or tensor_keys(model)
        masks = release(model)
        try:
            self._origin = self._origin or origin_of(model, self.args or (), self.kwargs or {})
            if isinstance(removal.options, PruneBlocks):
                found = self._without_blocks(model, removal, removal.options, masks, at)
            else:
                found = self._without_channels(model, removal, removal.options, masks, at, only)
        finally:
            hold(model, masks)
        hold(found.model, found.masks)
        self._settle(found.model)
        return Passed(found.model, found.units, found.notes, found.floors)

    def _settle(self, model: nn.Module) -> None:
        """The running moments of batch norms, of what they see now; repaired weights leave them as they were."""
        if self.repair and self.data.samples is not None:
            batchnorm.apply(model, batchnorm.reestimate(model, self.data.inputs(), seed=self.data.seed))

    def _without_channels(
        self,
        model: nn.Module,
        removal: Removal,
        options: PruneChannels,
        masks: dict[str, Tensor],
        at: At,
        only: Collection[str] | None,
    ) -> Removed:
        assert self._origin is not None
        followed = follow(model, options, self.args or (), self.kwargs or {}, but=removal.but, only=only)
        if not followed.candidates:
            return Removed(copied(model), masks, {}, ())
        groups = followed.groups.groups
        self._groups = self._groups or groups
        scores = score_groups(
            model,
            followed.candidates,
            options.criterion,
            samples=self.data.samples,
            loss=self.data.loss,
            seed=options.seed,
        )
        before = units_before(groups, self._groups)
        found = remove_channels(model, masks, options, followed, at(options.left), self._origin, before, scores)
        if self.repair:
            compensate(model, found.model, found.cuts, masks, self.data)
        return found

    def _without_blocks(
        self, model: nn.Module, removal: Removal, options: PruneBlocks, masks: dict[str, Tensor], at: At
    ) -> Removed:
        assert self._origin is not None
        args, kwargs = self.args or (), self.kwargs or {}
        if removal not in self._blocks:
            self._blocks[removal] = residual(model, options, args, kwargs, removal.but)
        smaller = without_blocks(
            model,
            options,
            args,
            kwargs,
            first=self._blocks[removal],
            but=removal.but,
            at=at,
            origin=self._origin,
            data=self.data,
        )
        names = {key.name for key in tensor_keys(smaller)}
        return Removed(smaller, {name: mask for name, mask in masks.items() if name in names}, {}, ())


def planned(model: nn.Module, passes: Passes) -> list[tuple[str, Prune | Removal]]:
    """What a pass would do to each tensor, group or block, to be done one after the other: densities and counts of
    units as all at once, by name."""
    model = copied(model)
    found: list[tuple[str, Prune | Removal]] = []
    for step in passes.steps:
        if isinstance(step, Recipe):
            plan = passes.plan(model, step)
            passes.prune_weights(model, plan)
            masks = masks_of(model)
            for name, option in plan.items():
                found.append((name, _alone(option, float(masks[name].double().mean()))))
            continue
        passed = passes.remove(model, step)
        if isinstance(step.options, PruneBlocks):
            dropped = blocks_between(model, passed.model)
            found += [(name, Removal(PruneBlocks(names=(name,)))) for name in dropped]
        else:
            for name, (before, left) in passed.units.items():
                one = replace(
                    step.options, ratio=1 - left / before, macs=None, parameters=None, scope="group", round_to=1
                )
                found.append((name, Removal(one)))
        model = passed.model
    return found


def blocks_between(before: nn.Module, after: nn.Module) -> tuple[str, ...]:
    """Names of the residual blocks that `after` lacks, in the order in which they went."""
    known = manifest_of(before).blocks
    return tuple(name for name in manifest_of(after).blocks if name not in known)


def _alone(option: Prune, density: float) -> Prune:
    """The option for one tensor that is to keep `density`, where others shared a threshold with it."""
    if option.scope != "global":
        return option
    return replace(option, density=density, scope="tensor", floor=0.0)


def adopt(model: nn.Module, found: nn.Module) -> nn.Module:
    """Makes the object `model` the network `found`."""
    if model is not found:
        model.__class__ = found.__class__
        model.__dict__ = found.__dict__
    return model


def arguments(
    model: nn.Module, example_inputs: Any, samples: Sequence[Any] | None, loss: Loss | None
) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """(args, kwargs) of one call; by default of the first sample; (None, None) where there is none, either.

    UsageError for inputs of another kind; CalibrationError where the model, which is handed back as it came, rejects
    the first sample.
    """
    batch = example_inputs
    if batch is None and samples is not None:
        batch = samples[0] if loss is None else unlabelled(samples[0])
        with torch.no_grad(), untouched(model, 0):
            answer(model, batch, 0)
    if batch is None:
        return None, None
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    raise UsageError(f"example_inputs must be a tensor, a tuple or a mapping, got {type(batch).__name__}")
