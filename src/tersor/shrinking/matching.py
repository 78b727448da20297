"""Which option is for which weight: configs as recipes, matched as recipes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

from tersor.costs import effective_parameters, parameter_sites
from tersor.errors import UsageError
from tersor.pruning import Prune
from tersor.recipe import Recipe, Rule, TensorKey
from tersor.shrinking.options import PruneChannels

Config: TypeAlias = "Prune | PruneChannels | Rule | Recipe"
"""What can be asked for; a list of them is done in order."""


def as_recipe(config: Prune | Rule | Recipe) -> Recipe:
    """A `Prune` is for all weights."""
    if isinstance(config, Recipe):
        return config
    return Recipe([config if isinstance(config, Rule) else Rule("*", prune=config)])


def listed_configs(config: Config | Sequence[Config]) -> list[Recipe | PruneChannels]:
    """What is to be done, in order; neighbouring rules are one recipe. UsageError for anything else, or for nothing."""
    given: list[Any] = list(config) if isinstance(config, (list, tuple)) else [config]
    found: list[Recipe | PruneChannels] = []
    rules: list[Rule] = []
    for part in given:
        if not isinstance(part, (Prune, PruneChannels, Rule, Recipe)):
            raise UsageError(f"config must be Prune, PruneChannels, Recipe, Rule or a list of them, got {part!r}")
        if isinstance(part, Rule):
            rules.append(part)
            continue
        if rules:
            found.append(Recipe(rules))
            rules = []
        found.append(part if isinstance(part, PruneChannels) else as_recipe(part))
    if rules:
        found.append(Recipe(rules))
    for part in found:
        if isinstance(part, Recipe) and not any(rule.prune for rule in part.rules):
            raise UsageError("no rule of the recipe prunes; give one of them prune=Prune(density=...)")
    if not found:
        raise UsageError("config is empty; give Prune, PruneChannels or a Recipe")
    return found


def weight_plan(model: nn.Module, recipe: Recipe) -> dict[str, Prune]:
    """How parameters are pruned, by name, tied ones under their first one; the others are left out.

    Names are those of the model without parametrizations. A rule that matches any name of a tied parameter counts.
    UsageError for a pattern that matches no parameter or buffer.
    """
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for prefix, _, attribute, stored in parameter_sites(model):
        name = f"{prefix}{attribute}"
        aliases[name] = first.setdefault(id(stored), name)
    tensors = dict(effective_parameters(model))
    keys = [TensorKey(name, tuple(tensors[own].shape), tensors[own].dtype) for name, own in aliases.items()]
    buffers = [TensorKey(name, tuple(b.shape), b.dtype) for name, b in model.named_buffers() if name not in aliases]
    plan = recipe.plan([*keys, *buffers])
    found: dict[str, Prune] = {}
    for name, own in aliases.items():
        option = plan[name].prune
        if option is not None:
            found[own] = option
    if not found:
        raise UsageError("the recipe prunes none of the model's weights: floating-point tensors of two dimensions")
    return found
