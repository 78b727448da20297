"""One pass of pruning over a network: the configs, in order, each as far as a step of a schedule says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.pruning import Prune
from tersor.recipe import Recipe
from tersor.shrinking.channels import score_groups
from tersor.shrinking.holding import hold, masks_of, release, write
from tersor.shrinking.losses import Loss, unlabelled
from tersor.shrinking.matching import weight_plan
from tersor.shrinking.options import PruneChannels
from tersor.shrinking.removal import Origin, follow, origin_of, remove_channels
from tersor.shrinking.weights import Data, reconstructed, weight_evidence, weight_masks

At = Callable[[float], float]
"""What is to be left in the end -> what is to be left now."""


def at_once(final: float) -> float:
    """All in one step."""
    return final


@dataclass(frozen=True)
class Passed:
    """model: with its masks held. units: of groups that lost some, what they have now. notes: as of `Pruned`."""

    model: nn.Module
    units: dict[str, int]
    notes: tuple[str, ...]


class Passes:
    """Passes over one network. Mutable: what shares are shares of is found in the first one that removes channels.

    args, kwargs: of one call; None where only weights are pruned.
    """

    def __init__(
        self,
        configs: Sequence[Recipe | PruneChannels],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        data: Data,
    ) -> None:
        self.configs = tuple(configs)
        self.args, self.kwargs = args, kwargs
        self.data = data
        self.origin: Origin | None = None

    def run(self, model: nn.Module, at: At = at_once) -> Passed:
        """All configs, in order. `model` is changed, or replaced by a smaller one."""
        units: dict[str, int] = {}
        notes: list[str] = []
        for config in self.configs:
            if isinstance(config, Recipe):
                notes += self.prune_weights(model, weight_plan(model, config), at)
            else:
                found = self.remove(model, config, at)
                model = found.model
                units.update(found.units)
                notes += found.notes
        return Passed(model, units, tuple(notes))

    def prune_weights(self, model: nn.Module, plan: Mapping[str, Prune], at: At = at_once) -> tuple[str, ...]:
        """Holds the model's weights at new masks, in place; gives notes. What is pruned already stays so."""
        steps = {n: o if o.density is None else replace(o, density=at(o.density)) for n, o in plan.items()}
        plain = copied(model)
        before = release(plain)
        found = weight_masks(model, steps, weight_evidence(plain, steps, self.data))
        masks = {name: mask & before[name].cpu() if name in before else mask for name, mask in found.masks.items()}
        for name, (mask, weight) in reconstructed(plain, steps, found.masks, self.data).items():
            masks[name] = mask
            write(model, name, weight)
        hold(model, masks)
        return found.notes

    def remove(
        self, model: nn.Module, options: PruneChannels, at: At = at_once, only: Collection[str] | None = None
    ) -> Passed:
        """A smaller copy of `model`; masks are cut with their weights.

        only: names of the groups that may lose units. `model` is as it was in the end, errors included.
        """
        if self.args is None and self.kwargs is None:
            raise UsageError("prune_channels needs example_inputs: what one call of the model takes")
        masks = release(model)
        try:
            followed = follow(model, options, self.args or (), self.kwargs or {}, only)
            self.origin = self.origin or origin_of(model, followed)
            scores = score_groups(
                model,
                followed.candidates,
                options.criterion,
                samples=self.data.samples,
                loss=self.data.loss,
                seed=options.seed,
            )
            found = remove_channels(model, masks, options, followed, at(options.left), self.origin, scores)
        finally:
            hold(model, masks)
        hold(found.model, found.masks)
        return Passed(found.model, found.units, found.notes)


def copied(model: nn.Module) -> nn.Module:
    """A copy. UsageError for a model that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(
            f"the model cannot be copied ({type(error).__name__}: {error}); detach what its attributes hold"
        ) from error


def planned(model: nn.Module, passes: Passes) -> list[tuple[str, Prune | PruneChannels]]:
    """What a pass would do to each tensor or group, to be done one after the other: densities and counts of units as
    all at once, by name."""
    model = copied(model)
    found: list[tuple[str, Prune | PruneChannels]] = []
    for config in passes.configs:
        if isinstance(config, Recipe):
            plan = weight_plan(model, config)
            passes.prune_weights(model, plan)
            masks = masks_of(model)
            for name, option in plan.items():
                found.append((name, _alone(option, float(masks[name].double().mean()))))
            continue
        passed = passes.remove(model, config)
        assert passes.origin is not None
        for name, count in passed.units.items():
            ratio = 1 - count / passes.origin.units[name]
            one = replace(config, ratio=ratio, macs=None, parameters=None, scope="group", round_to=1)
            found.append((name, one))
        model = passed.model
    return found


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
    example_inputs: Any, samples: Sequence[Any] | None, loss: Loss | None
) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """(args, kwargs) of one call; by default of the first sample; (None, None) where there is none, either.

    UsageError for inputs of another kind.
    """
    batch = example_inputs
    if batch is None and samples is not None:
        batch = samples[0] if loss is None else unlabelled(samples[0])
    if batch is None:
        return None, None
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    raise UsageError(f"example_inputs must be a tensor, a tuple or a mapping, got {type(batch).__name__}")
