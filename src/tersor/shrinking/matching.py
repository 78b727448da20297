"""Which option is for which weight: configs as recipes, matched as recipes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from tersor.costs import effective_parameters, parameter_sites
from tersor.errors import UsageError
from tersor.pruning import Prune, PruneBlocks, PruneChannels
from tersor.recipe import Recipe, Rule, TensorKey, check_patterns

Config: TypeAlias = "Prune | PruneChannels | PruneBlocks | Rule | Recipe"
"""What can be asked for; a list of them is done in order."""


@dataclass(frozen=True)
class Removal:
    """Parts of a network that go. but: patterns of tensor names, as of `match`, of parts that later rules decide on."""

    options: PruneChannels | PruneBlocks
    but: tuple[str, ...] = ()


Step: TypeAlias = "Recipe | Removal"
"""What one part of a pass does: masks by a recipe of `Prune`, or a removal."""


def as_recipe(config: Prune | Rule | Recipe) -> Recipe:
    """A `Prune` is for all weights."""
    if isinstance(config, Recipe):
        return config
    return Recipe([config if isinstance(config, Rule) else Rule("*", prune=config)])


def listed_configs(config: Config | Sequence[Config]) -> list[Step]:
    """What is to be done, in order; neighbouring rules are one recipe, of which blocks go first, then channels, then
    weights. UsageError for anything else, or for nothing."""
    given: list[Any] = list(config) if isinstance(config, (list, tuple)) else [config]
    found: list[Step] = []
    rules: list[Rule] = []
    for part in given:
        if not isinstance(part, (Prune, PruneChannels, PruneBlocks, Rule, Recipe)):
            raise UsageError(
                f"config must be Prune, PruneChannels, PruneBlocks, Recipe, Rule or a list of them, got {part!r}"
            )
        if isinstance(part, Rule):
            rules.append(part)
            continue
        found += _steps(rules) if rules else []
        rules = []
        found += [Removal(part)] if isinstance(part, (PruneChannels, PruneBlocks)) else _steps(as_recipe(part).rules)
    found += _steps(rules) if rules else []
    if not found:
        raise UsageError("config is empty; give Prune, PruneChannels, PruneBlocks or a Recipe")
    return found


def _steps(rules: Sequence[Rule]) -> list[Step]:
    found: list[Step] = []
    for field in ("blocks", "channels"):
        some = [rule for rule in rules if getattr(rule, field) is not None]
        for number, rule in enumerate(some):
            later = tuple(pattern for other in some[number + 1 :] for pattern in other.patterns)
            found += [Removal(option, later) for option in rule.removals if option.name == f"prune_{field}"]
    masks = [replace(rule, channels=None, blocks=None) for rule in rules if rule.prune is not None]
    if not found and not masks:
        raise UsageError("no rule of the recipe prunes; give one of them prune=, channels= or blocks=")
    return [*found, Recipe(masks)] if masks else found


def check_names(steps: Sequence[Step], model: nn.Module) -> None:
    """UsageError for a pattern of a removal that matches no tensor of the model."""
    names = [key.name for key in tensor_keys(model)]
    for step in steps:
        if isinstance(step, Removal):
            check_patterns([*step.options.match, *step.options.keep], names)


def tensor_keys(model: nn.Module) -> list[TensorKey]:
    """What recipes know of the model's parameters, at each of their places, and buffers; names without
    parametrizations."""
    tensors = dict(effective_parameters(model))
    first: dict[int, Tensor] = {}
    keys = []
    for prefix, _, attribute, stored in parameter_sites(model):
        name = f"{prefix}{attribute}"
        tensor = first.setdefault(id(stored), tensors.get(name, stored))
        keys.append(TensorKey(name, tuple(tensor.shape), tensor.dtype))
    names = {key.name for key in keys}
    return keys + [TensorKey(n, tuple(b.shape), b.dtype) for n, b in model.named_buffers() if n not in names]


def weight_plan(model: nn.Module, recipe: Recipe, also: Sequence[TensorKey] = ()) -> dict[str, Prune]:
    """How parameters are pruned, by name, tied ones under their first one; the others are left out.

    Names are those of the model without parametrizations. A rule that matches any name of a tied parameter counts.
    also: tensors that patterns may speak of, though they are gone.
    UsageError for a pattern that matches no parameter or buffer, and for rules that remove channels or blocks: masks
    alone cannot do that.
    """
    if recipe.removals:
        raise UsageError(
            f"the rule for {recipe.removals[0].match!r} removes parts of the network, which tersor.prune alone does"
        )
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for prefix, _, attribute, stored in parameter_sites(model):
        name = f"{prefix}{attribute}"
        aliases[name] = first.setdefault(id(stored), name)
    keys = tensor_keys(model)
    known = {key.name for key in keys}
    plan = recipe.plan([*keys, *(key for key in also if key.name not in known)])
    found: dict[str, Prune] = {}
    for name, own in aliases.items():
        option = plan[name].prune
        if option is not None:
            found[own] = option
    if not found:
        raise UsageError("the recipe prunes none of the model's weights: floating-point tensors of two dimensions")
    return found
