"""Channels and blocks that go before a training begins: the network and its optimizer follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.errors import UsageError
from tersor.recipe import Recipe
from tersor.sessions.optimizers import take_off
from tersor.shrinking.holding import hold, release
from tersor.shrinking.prune import prune
from tersor.shrinking.weights import Data
from tersor.structure.carried import carry, manifest_of
from tersor.structure.cuts import Cut, Cuts, taken
from tersor.structure.edits import Edits, holder
from tersor.structure.manifest import Manifest, apply_manifest


@torch.no_grad()
def remove_parts(
    model: nn.Module, recipe: Recipe, optimizer: Optimizer | None, data: Data, example_inputs: Any
) -> None:
    """Removes what `recipe`, of which all rules remove, says: in place, else as `tersor.prune` does it.

    Modules and parameters stay the same objects. The optimizer's moments are cut as the parameters are; of dropped
    blocks it keeps none. Raises what `prune` does; nothing is changed then.
    """
    with torch.enable_grad():
        smaller = prune(
            model, recipe, example_inputs=example_inputs, calibration=data.samples, loss=data.loss, seed=data.seed
        ).model
    masks = release(smaller)
    release(model)
    before = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: parameter.shape for name, parameter in before.items()}
    lost = _lost(model, smaller)
    edits = Edits()
    apply_manifest(model, lost, edits)
    carry(model, manifest_of(smaller), edits)
    model.load_state_dict(smaller.state_dict())
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        module, attribute = holder(model, name)
        before[name].grad, before[name].data = None, parameter.data
        setattr(module, attribute, before[name])
    hold(model, masks)
    if optimizer is not None:
        _cut_moments(optimizer, before, shapes, lost.cuts)
        _forget(optimizer, before, model)


def _lost(model: nn.Module, smaller: nn.Module) -> Manifest:
    """What `smaller`, a copy of `model` that lost something, lost; positions are those of `model`."""
    first, second = manifest_of(model), manifest_of(smaller)
    cuts = {}
    for key, whole in second.cuts.items():
        earlier = first.cuts.get(key, Cut(whole.size, ()))
        gone = ~torch.isin(earlier.kept(), whole.kept())
        if bool(gone.any()):
            cuts[key] = Cut(earlier.left, tuple(gone.nonzero().reshape(-1).tolist()))
    blocks = tuple(name for name in second.blocks if name not in first.blocks)
    return Manifest(blocks, cuts, dict(second.integers.items() - first.integers.items()))


def _cut_moments(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], shapes: Mapping[str, torch.Size], cuts: Cuts
) -> None:
    """Of what the optimizer keeps for a parameter, tensors of the shape that it had lose what it lost.

    UsageError for tensors of another shape, such as factored moments, which nobody can cut without knowing them.
    """
    names = {id(parameters[name]): name for name, _ in cuts if name in parameters}
    for parameter, state in optimizer.state.items():
        name = names.get(id(parameter))
        if name is not None:
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == shapes[name]:
                    state[key] = taken(name, value, cuts)
                elif isinstance(value, Tensor) and value.numel() > 1:
                    raise UsageError(
                        f"{name} loses channels, and {type(optimizer).__name__} keeps for it {key} of shape "
                        f"{tuple(value.shape)}, which cannot follow: give tersor.prepare an optimizer without a state "
                        "(made anew), or one of another class"
                    )


def _forget(optimizer: Optimizer, before: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Takes parameters from the optimizer that the model had before and has no more."""
    left = {id(parameter) for parameter in model.parameters()}
    gone = {id(parameter): parameter for parameter in before.values() if id(parameter) not in left}
    take_off(optimizer, gone.values())
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)
