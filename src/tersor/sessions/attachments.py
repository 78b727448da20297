"""Simulations and quantizers of activations, put into a network and taken out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.errors import TersorError, UsageError, named
from tersor.sessions.plan import Planned, plain_name
from tersor.shrinking.holding import Mask, put
from tersor.simulation import Activations, Simulation
from tersor.simulation.affine import Affine

INPUTS = "input_quantizer"
"""What the quantizer of a layer's inputs is called: a submodule of the layer."""


@dataclass(frozen=True)
class Simulated:
    """A weight that is simulated, from optimizer step `begin` on; `rate` is of the simulation's own parameters."""

    planned: Planned
    simulation: Simulation
    begin: int
    rate: float

    @property
    def mask(self) -> Tensor | None:
        """What is kept of the weight; None where no mask holds it."""
        return next((part.mask for part in chain_of(self.planned) if isinstance(part, Mask)), None)


def attach(planned: Planned) -> Simulated:
    """Puts the simulation of a planned weight before its mask, fitted to the weight that stands.

    UsageError, naming the weight, for whatever the simulation refuses, and for one that changes shape or dtype.
    """
    assert planned.training is not None
    weight, mask = planned.stored.detach(), mask_of(planned)
    try:
        simulation = planned.training.simulate(weight, planned.treatment.representation, mask)
    except TersorError as error:
        raise named(planned.name, error) from error
    with torch.no_grad():
        given = simulation(weight)
    if given.shape != weight.shape or given.dtype != weight.dtype:
        raise UsageError(
            f"{planned.name}: {type(simulation).__name__} gave {given.dtype} of shape {tuple(given.shape)} for a "
            f"weight of {weight.dtype} and shape {tuple(weight.shape)}; both must stay"
        )
    for place in planned.places:
        put(place.module, place.attribute, simulation, first=True)
    return Simulated(planned, simulation, planned.training.begin, planned.training.rate)


def check_attached(parts: Iterable[Simulated]) -> None:
    """UsageError, naming the first, for a weight whose simulation something else has taken away."""
    for part in parts:
        if not any(own is part.simulation for own in chain_of(part.planned)):
            raise UsageError(
                f"{part.planned.name}: its simulation was taken away, and it would go on in full precision; "
                "session.finalize(copy) compresses a copy while the session goes on"
            )


def attach_quantizer(layer: nn.Module, name: str, config: Activations) -> nn.Module:
    """Puts the quantizer of its inputs before a layer, as its submodule. UsageError, naming it, if refused."""
    check_free(layer, name)
    try:
        quantizer = config.simulate(layer)
    except TersorError as error:
        raise named(name, error) from error
    layer.add_module(INPUTS, quantizer.train(layer.training))
    layer.register_forward_pre_hook(_Quantized(name))
    return quantizer


def check_free(layer: nn.Module, name: str) -> None:
    """UsageError, naming it, for a layer that has a quantizer, or something else of that name."""
    if hasattr(layer, INPUTS):
        raise UsageError(f"{name}: has an {INPUTS} already; finalize the session that put it there")


def detach_quantizer(layer: nn.Module) -> nn.Module:
    """Takes the quantizer of its inputs from a layer, and gives it."""
    quantizer = layer._modules.pop(INPUTS)
    assert quantizer is not None
    for key, hook in list(layer._forward_pre_hooks.items()):
        if isinstance(hook, _Quantized):
            del layer._forward_pre_hooks[key]
    return quantizer


def grids_of(quantizers: Mapping[str, nn.Module]) -> dict[str, Affine]:
    """The grids of those quantizers, by layers, that have one. CalibrationError, naming the layer, before its first
    training batch."""
    found = {}
    for name, quantizer in quantizers.items():
        if callable(getattr(quantizer, "grid", None)):
            try:
                found[name] = quantizer.grid()  # type: ignore[operator]
            except TersorError as error:
                raise named(f"inputs of {name or 'the network'}", error) from error
    return found


def own_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of a network's state_dict its own tensors, by plain names: nothing of masks, simulations and quantizers."""
    plain = {plain_name(key): value for key, value in state.items() if f".{INPUTS}." not in f".{key}"}
    return {name: value for name, value in plain.items() if ".parametrizations." not in f".{name}"}


def mask_of(planned: Planned) -> Tensor | None:
    """The mask that holds a parameter; None where there is none, or it keeps all."""
    for part in chain_of(planned):
        if isinstance(part, Mask) and not bool(part.mask.all()):
            return part.mask
    return None


def chain_of(planned: Planned) -> list[nn.Module]:
    """The parametrizations of a parameter, in order."""
    if not planned.places:
        return []
    place = planned.places[0]
    if not parametrize.is_parametrized(place.module, place.attribute):
        return []
    return list(place.module.parametrizations[place.attribute].children())  # type: ignore[index, union-attr]


@contextmanager
def without_simulations(model: nn.Module) -> Iterator[None]:
    """Within, weights are what is stored of them, under their masks: what pruning compares."""
    chains = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    removed = [(chain, chain[0]) for chain in chains if isinstance(chain[0], Simulation)]
    try:
        for chain, _ in removed:
            if len(chain) > 1:
                del chain[0]
            else:
                chain[0] = nn.Identity()  # a chain must not be empty
        yield
    finally:
        for chain, simulation in removed:
            if isinstance(chain[0], nn.Identity):
                chain[0] = simulation
            else:
                chain.insert(0, simulation)


class _Quantized:
    """The hook: the first positional argument of a call, quantized. name: of the layer, for errors."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not args:
            raise UsageError(f"{self.name}: inputs that are quantized must be the layer's first positional argument")
        quantizer = getattr(layer, INPUTS)
        if torch.compiler.is_compiling():  # which does not trace errors that are caught
            return (quantizer(args[0]), *args[1:])
        try:
            return (quantizer(args[0]), *args[1:])
        except TersorError as error:
            raise named(f"inputs of {self.name or 'the network'}", error) from error
