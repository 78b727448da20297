"""The end of a session: each weight as the file will hold it, and the network with exactly these weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tersor.entries import compressed_entries
from tersor.errors import TersorError, named
from tersor.interop import from_state_dict
from tersor.model import CompressedModel
from tersor.quantization import Palettize
from tersor.recipe import Recipe
from tersor.sessions.attachments import chain_of, mask_of
from tersor.sessions.plan import Plan, Planned, make_places
from tersor.shrinking.holding import make_plain
from tersor.simulation import Simulation
from tersor.structure.carried import attachments_of
from tersor.tensors import CompressedTensor


@torch.no_grad()
def compressed_weights(model: nn.Module, plan: Plan) -> dict[str, CompressedTensor]:
    """What the recipe changes, by first name: from its simulation, or fitted to the weight where it has none.

    `model` is the session's network, or a copy of it. Errors name the tensor.
    """
    places = make_places(model)
    own = {name: replace(part, places=tuple(places.get(name, ()))) for name, part in plan.tensors.items()}
    buffers = dict(model.named_buffers())
    found: dict[str, CompressedTensor] = {}
    for name, part in own.items():
        if part.treatment.share is None:
            try:
                found[name] = _compressed(part, buffers.get(name))
            except TersorError as error:
                raise named(name, error) from error
    for share in dict.fromkeys(part.treatment.share for part in own.values() if part.treatment.share is not None):
        group = [part for part in own.values() if part.treatment.share == share]
        representation = group[0].treatment.representation
        assert isinstance(representation, Palettize)
        values = [_value(part, buffers.get(part.name)) for part in group]
        fitted = representation.fit_shared(values, [mask_of(part) for part in group])
        found.update({part.name: tensor for part, tensor in zip(group, fitted, strict=True)})
    return found


def make_ordinary(model: nn.Module, weights: Mapping[str, CompressedTensor], names: Sequence[str]) -> None:
    """Takes masks and simulations away, in place, and writes what the weights dequantize to.

    names: the state_dict's, in the order that parameters get again.
    """
    places = make_places(model)
    make_plain(model)
    with torch.no_grad():
        tensors = dict(model.named_buffers())
        for name, weight in weights.items():
            target = getattr(places[name][0].module, places[name][0].attribute) if name in places else tensors[name]
            target.copy_(weight.dequantize())
    order = {name: number for number, name in enumerate(names)}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for attribute in sorted(module._parameters, key=lambda a: order.get(f"{prefix}{a}", len(order))):
            module._parameters[attribute] = module._parameters.pop(attribute)


def compressed_model(model: nn.Module, weights: Mapping[str, CompressedTensor]) -> CompressedModel:
    """The file's content, of an ordinary network that holds what `weights` dequantize to; all else is lossless."""
    tensors = model.state_dict(keep_vars=True)
    with from_state_dict(tensors, attachments_of(model)) as checkpoint:
        entries = []
        for entry in compressed_entries(checkpoint, Recipe.lossless()):
            weight = weights.get(entry.name)
            entries.append(entry if weight is None or entry.tensor is None else replace(entry, tensor=weight))
        info = checkpoint.info
        size = sum(tensor.nbytes for tensor in info.tensors if tensor.tied_to is None)
        return CompressedModel(tuple(entries), info.format, dict(info.attachments), size)


def _compressed(part: Planned, buffer: Tensor | None) -> CompressedTensor:
    mask = mask_of(part)
    for simulation in chain_of(part):
        if isinstance(simulation, Simulation):
            mode = simulation.training
            simulation.eval()
            try:
                return simulation.compressed(part.stored.detach(), mask)
            finally:
                simulation.train(mode)
    return part.treatment.representation.fit(_value(part, buffer), mask)


def _value(part: Planned, buffer: Tensor | None) -> Tensor:
    """What the network computes with, of a parameter that is not simulated or of a buffer."""
    if part.places:
        return getattr(part.places[0].module, part.places[0].attribute).detach()
    assert buffer is not None
    return buffer
