"""Masks that hold: pruned weights stay zero whatever an optimizer does to what is stored.

A held weight is W * M: `torch.nn.utils.parametrize` computes it from the stored W and the mask M at each use. What is
pruned gets no gradient, and weight decay or momentum move only the stored number, which nobody sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.costs import parameter_sites
from tersor.errors import MismatchError, UsageError
from tersor.simulation import Simulation


class Mask(nn.Module):
    """The parametrization. mask: bool, of the weight's shape, True where kept.

    watch: whether the next backward pass leaves the gradient of the whole weight, pruned positions included, in
        `gradient` (what regrowth decides by). Not kept in the state_dict.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.watch = False
        self.gradient: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, zero where it is pruned, even where what is stored there is not finite."""
        held = torch.where(self.mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))
        if self.watch and held.requires_grad:
            held.register_hook(self._remember)
        return held

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is stored when a weight is assigned."""
        return weight

    def _remember(self, gradient: Tensor) -> None:
        # A weight that is used at several places gets several gradients.
        self.gradient = gradient.detach() if self.gradient is None else self.gradient + gradient.detach()


def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Holds parameters of `model` at their masks, in place; tensors that are held already get the new mask.

    masks: by the name of the parameter (without "parametrizations"), bool, of its shape, True where kept. Tied
        parameters stay tied: one name of theirs is enough. Parametrizations that a parameter has stay, under the mask.
    Raises MismatchError, before anything is changed, for a name that is no parameter, or a mask of another shape or
    dtype.
    """
    sites: dict[int, list[tuple[nn.Module, str]]] = {}
    stored: dict[str, nn.Parameter] = {}
    for prefix, module, attribute, parameter in parameter_sites(model):
        sites.setdefault(id(parameter), []).append((module, attribute))
        stored[f"{prefix}{attribute}"] = parameter
    for name, mask in masks.items():
        if name not in stored:
            raise MismatchError(f"mask of {name!r}: the model has no such parameter")
        module, attribute = sites[id(stored[name])][0]
        check_mask(name, mask, getattr(module, attribute))
    for name, mask in masks.items():
        _hold(sites[id(stored[name])], mask)


def check_mask(name: str, mask: Any, weight: Tensor) -> None:
    """MismatchError unless `mask` is a bool tensor of the weight's shape."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = f"of {mask.dtype}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise MismatchError(f"mask of {name!r}: it must be a bool tensor, True where kept; it is {found}")
    if mask.shape != weight.shape:
        raise MismatchError(
            f"mask of {name!r}: it must have the weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}"
        )


def holders(model: nn.Module) -> dict[str, Mask]:
    """The masks' modules by the names of the parameters they hold; those of tied parameters under each name."""
    found = {}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            held = module.parametrizations
            assert isinstance(held, nn.ModuleDict)
            for attribute, chain in held.items():
                mask = _own_mask(chain)
                if mask is not None:
                    found[f"{path}.{attribute}" if path else attribute] = mask
    return found


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the masks by the names of the parameters; none for a model that holds none."""
    return {name: holder.mask.clone() for name, holder in holders(model).items()}


def finalize(model: nn.Module) -> nn.Module:
    """Removes the masks from `model`, in place, and writes the zeros into the parameters. Returns it.

    Parameters stay the same objects, so that optimizers go on with them. Where a parameter has other parametrizations
    under its mask (weight norm), they go, too: nothing of theirs could keep the zeros. UsageError for a network whose
    weights a session simulates, which ends by `Session.finalize` alone.
    """
    if any(isinstance(module, Simulation) for module in model.modules()):
        raise UsageError(
            "finalize: a session trains this network; session.finalize() ends it, session.finalize(copy) takes a copy"
        )
    return make_plain(model)


def make_plain(model: nn.Module) -> nn.Module:
    """`finalize`, of masks and simulations: what these give now is written into the parameters."""
    written: set[int] = set()  # what tied parameters store must not be simulated twice
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        held = module.parametrizations
        assert isinstance(held, nn.ModuleDict)
        _give_own_class(module)
        for attribute, chain in list(held.items()):
            if any(isinstance(part, (Mask, Simulation)) for part in chain.children()):
                chain.eval()
                stored = id(getattr(chain, "original", chain))
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=stored not in written)
                written.add(stored)
        if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
            module._init_flat_weights()
    return model


def finalized(model: nn.Module) -> nn.Module:
    """`model` itself if it has neither masks nor simulations, else a finalized copy."""
    ours = any(isinstance(module, (Mask, Simulation)) for module in model.modules())
    return make_plain(copy.deepcopy(model)) if ours else model


@torch.no_grad()
def write(model: nn.Module, name: str, value: Tensor) -> None:
    """Writes values into a parameter, by its name without parametrizations: what is stored of it where it is held.

    MismatchError for a parameter that other parametrizations compute: nothing says what would give these values.
    """
    for prefix, _, attribute, stored in parameter_sites(model):
        if f"{prefix}{attribute}" == name:
            if stored.shape != value.shape:
                raise MismatchError(f"{name}: parametrizations compute it, so that it cannot be given new values")
            stored.copy_(value)
            return
    raise MismatchError(f"{name}: the model has no such parameter")


def release(model: nn.Module) -> dict[str, Tensor]:
    """Removes the masks from `model`, in place, and gives them, by the names of the parameters.

    Zeros, and what simulations give, are written into parameters, as by `make_plain`; other parametrizations stay,
    without zeros.
    """
    masks = masks_of(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for chain in module.parametrizations.values():
                own = _own_mask(chain)
                assert isinstance(chain, nn.ModuleList)
                if own is not None and len(chain) > 1:
                    del chain[list(chain).index(own)]
    make_plain(model)
    return masks


def _own_mask(chain: nn.Module) -> Mask | None:
    return next((part for part in chain.children() if isinstance(part, Mask)), None)


def _hold(sites: list[tuple[nn.Module, str]], mask: Tensor) -> None:
    """One mask for all places of a parameter."""
    holder: Mask | None = None
    for module, attribute in sites:
        own = None
        if parametrize.is_parametrized(module, attribute):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            own = _own_mask(module.parametrizations[attribute])
        if own is not None:
            own.mask.copy_(mask)
            holder = holder or own
            continue
        device = getattr(module, attribute).device
        holder = holder or Mask(mask.to(device, copy=True))
        put(module, attribute, holder)


def put(module: nn.Module, attribute: str, part: nn.Module, *, first: bool = False) -> None:
    """Makes `part` a parametrization of a weight, the last one, or (`first`) the one before those that it has."""
    _give_own_class(module)
    if first and parametrize.is_parametrized(module, attribute):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        chain = module.parametrizations[attribute]
        assert isinstance(chain, nn.ModuleList)
        chain.insert(0, part.train(module.training))
    elif parametrize.is_parametrized(module, attribute):
        parametrize.register_parametrization(module, attribute, part)
    else:
        # torch calls `set_` on what it registers, which takes the hooks of DistributedDataParallel off: that happens to
        # another parameter of the same memory.
        stored = getattr(module, attribute)
        module._parameters[attribute] = nn.Parameter(stored.detach(), stored.requires_grad)
        parametrize.register_parametrization(module, attribute, part)
        module.parametrizations[attribute].original = stored  # type: ignore[index, union-attr]
    if isinstance(module, nn.RNNBase):
        _compute_flat_weights(module)


def _give_own_class(module: nn.Module) -> None:
    """Parametrized modules have classes of their own, but copies share them: torch's changes would reach the others."""
    if parametrize.is_parametrized(module):
        cls = type(module)
        own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, own)


def _compute_flat_weights(module: nn.RNNBase) -> None:
    """Recurrent layers compute with a list of their parameters: it must hold what the parametrizations give.

    `register_parametrization` gave the module a class of its own, on which a property takes the list's place.
    """
    module.__dict__.pop("_flat_weights", None)

    def current(self: nn.RNNBase) -> list[Tensor | None]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    def ignore(self: nn.RNNBase, value: Any) -> None:
        """What is set would only be computed again."""

    type(module)._flat_weights = property(current, ignore)  # type: ignore[assignment]
