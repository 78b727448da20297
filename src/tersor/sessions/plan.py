"""What a recipe asks of each tensor of a network that is trained, whatever names the tensor has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.costs import parameter_sites
from tersor.errors import UsageError
from tersor.quantization import Lossless
from tersor.recipe import Recipe, Rule, TensorKey, Treatment
from tersor.shrinking.holding import Mask
from tersor.simulation import DEFAULTS, Activations, Simulation, Training
from tersor.simulation.base import TAKE_INDICES


@dataclass(frozen=True)
class Place:
    """Where a parameter is used: the module and the attribute that it is there."""

    module: nn.Module
    attribute: str


@dataclass(frozen=True)
class Planned:
    """One tensor of the network.

    name:      its first one, without parametrizations. places: where it is used; none for buffers.
    treatment: what the recipe says.
    training:  how it is trained: the recipe's, or the default of its representation; None for not at all.
    """

    name: str
    places: tuple[Place, ...]
    treatment: Treatment
    training: Training | None = None

    @property
    def stored(self) -> Tensor:
        """The parameter that the optimizer moves."""
        place = self.places[0]
        if parametrize.is_parametrized(place.module, place.attribute):
            return place.module.parametrizations[place.attribute].original  # type: ignore[index, union-attr, return-value]
        return getattr(place.module, place.attribute)


@dataclass(frozen=True)
class Plan:
    """What is to be done with a network.

    names:       of its state_dict without masks, in order.
    tensors:     by first name: what the recipe changes. activations: by the name of the layer: its inputs' quantizer.
    """

    names: tuple[str, ...]
    tensors: Mapping[str, Planned]
    activations: Mapping[str, Activations]


def make_plan(model: nn.Module, recipe: Recipe) -> Plan:
    """What `recipe` asks of `model`, whose masks may stay.

    UsageError for a pattern that matches nothing; where two names of one tensor (tied parameters), or two weights of
    one layer, are asked to be treated in two ways; for a network that is in a session already; and for a weight to be
    trained that other parametrizations compute.
    """
    if any(isinstance(module, Simulation) for module in model.modules()):
        raise UsageError("the model is in a session already; finalize that one first")
    keys, aliases = _tensors(model)
    places = make_places(model)
    treatments = recipe.plan(list(keys.values()))
    found: dict[str, Planned] = {}
    for name, own in aliases.items():
        if name == own:
            same = [keys[n] for n, first in aliases.items() if first == own]
            planned = Planned(name, tuple(places.get(own, ())), _united(same, treatments, recipe))
            if planned.treatment != Treatment(Lossless()):
                found[name] = replace(planned, training=_training(planned))
    return Plan(
        tuple(plain_name(key) for key in model.state_dict(keep_vars=True)),
        found,
        _activations(model, aliases, treatments, recipe),
    )


def make_places(model: nn.Module) -> dict[str, list[Place]]:
    """Places of all parameters, by their first names. No weight is computed: simulations may draw random numbers."""
    found: dict[int, tuple[str, list[Place]]] = {}
    for prefix, module, attribute, stored in parameter_sites(model):
        found.setdefault(id(stored), (f"{prefix}{attribute}", []))[1].append(Place(module, attribute))
    return dict(found.values())


def _tensors(model: nn.Module) -> tuple[dict[str, TensorKey], dict[str, str]]:
    """Keys by every name of a parameter or buffer; and every name -> the tensor's first one."""
    keys: dict[str, TensorKey] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for prefix, module, attribute, stored in parameter_sites(model):
        name = f"{prefix}{attribute}"
        aliases[name] = first.setdefault(id(stored), name)
        value = getattr(module, attribute).detach()
        keys[name] = TensorKey(name, tuple(value.shape), value.dtype)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if ".parametrizations." not in f".{name}":
            aliases[name] = first.setdefault(id(buffer), name)
            keys[name] = TensorKey(name, tuple(buffer.shape), buffer.dtype)
    return keys, aliases


def _united(names: list[TensorKey], treatments: Mapping[str, Treatment], recipe: Recipe) -> Treatment:
    """What is asked of a tensor by any of its names."""

    def said(what: str, speaks: Callable[[Rule], bool], of: Callable[[Treatment], object]) -> Treatment:
        known = [key for key in names if any(speaks(rule) and rule.matches(key) for rule in recipe.rules)]
        for key in known[1:]:
            if of(treatments[key.name]) != of(treatments[known[0].name]):
                both = (
                    f"{of(treatments[each.name])} by the rule for "
                    f"{next(rule.match for rule in reversed(recipe.rules) if speaks(rule) and rule.matches(each))!r}"
                    for each in (known[0], key)
                )
                raise UsageError(
                    f"{known[0].name} and {key.name} are one tensor, but the recipe gives them two {what}: "
                    f"{' and '.join(both)}; match both by the same rules"
                )
        return treatments[(known or names)[0].name]

    kept = said(
        "representations", lambda r: bool(r.representation or r.train), lambda t: (t.representation, t.train, t.share)
    )
    pruned = said("ways to prune", lambda r: r.prune is not None, lambda t: (t.prune, t.schedule, t.regrow))
    return replace(kept, prune=pruned.prune, schedule=pruned.schedule, regrow=pruned.regrow, activations=None)


def _training(planned: Planned) -> Training | None:
    treatment = planned.treatment
    training = treatment.train
    if training is None and treatment.share is None:
        training = DEFAULTS.get(type(treatment.representation))
    if training is None or not planned.places:
        return None
    if treatment.share is not None:
        raise UsageError(f"{planned.name}: a codebook that several tensors share cannot be trained; leave out shared")
    for place in planned.places:
        if parametrize.is_parametrized(place.module, place.attribute):
            for part in place.module.parametrizations[place.attribute]:  # type: ignore[index, union-attr]
                if not isinstance(part, Mask):
                    raise UsageError(
                        f"{planned.name}: {type(part).__name__} computes this weight, so that it cannot be simulated; "
                        "remove that parametrization first (torch.nn.utils.parametrize.remove_parametrizations)"
                    )
    return training


def _activations(
    model: nn.Module, aliases: Mapping[str, str], treatments: Mapping[str, Treatment], recipe: Recipe
) -> dict[str, Activations]:
    """Quantizers of inputs by layers. Embeddings have none, unless a rule names them: that is refused later."""
    found: dict[str, Activations] = {}
    layers: dict[int, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in aliases:
        config, path = treatments[name].activations, name.rpartition(".")[0]
        exact = any(rule.activations is not None and name in rule.patterns for rule in recipe.rules)
        if config is None or (isinstance(modules[path], TAKE_INDICES) and not exact):
            continue
        layer = layers.setdefault(id(modules[path]), path)
        if found.setdefault(layer, config) != config:
            raise UsageError(
                f"{layer}: the recipe quantizes its inputs in two ways: {found[layer]} and {config} (for {name})"
            )
    return found


def plain_name(key: str) -> str:
    """A key of a state_dict, without the parametrization that holds the tensor."""
    return re.sub(r"(^|\.)parametrizations\.(\w+)\.original$", r"\1\2", key)
