"""Cuts: which positions of which dimensions of which tensors go, and modules without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tersor.errors import StructureError, UsageError
from tersor.structure.attributes import standard_integers
from tersor.structure.edits import Edits, holder
from tersor.structure.narrow_attention import NarrowMultiheadAttention

if TYPE_CHECKING:  # what finds groups imports torch.export, which loading a file must not wait for
    from tersor.structure.groups import Groups, Selection

_PARAMETRIZED = "parametrizations"


@dataclass(frozen=True)
class Cut:
    """Positions of one dimension that go: ascending, within 0 and `size` (the dimension's size before), not all."""

    size: int
    removed: tuple[int, ...]

    @property
    def left(self) -> int:
        """The dimension's size after."""
        return self.size - len(self.removed)

    def kept(self) -> Tensor:
        """The positions that stay, ascending: int64 (left)."""
        mask = torch.ones(self.size, dtype=torch.bool)
        mask[list(self.removed)] = False
        return mask.nonzero().reshape(-1)


Cuts = Mapping[tuple[str, int], Cut]
"""(name of a tensor, dimension) -> what goes of it."""


def selected_cuts(model: nn.Module, selection: Selection, groups: Groups) -> dict[tuple[str, int], Cut]:
    """What goes of each tensor when the selected units are removed.

    UsageError for unknown groups, units out of range, and where nothing would be left of a group or a dimension.
    """
    by_name = {group.name: group for group in groups.groups}
    removed: dict[tuple[str, int], set[int]] = {}
    for name, units in selection.items():
        if name not in by_name:
            raise UsageError(f"there is no group {name!r}; the groups are {', '.join(list(by_name)[:20]) or 'none'}")
        group, chosen = by_name[name], set(map(int, units))
        if any(not 0 <= unit < group.units for unit in chosen):
            raise UsageError(f"group {name!r} has units 0 to {group.units - 1}; {sorted(chosen)} were selected")
        if len(chosen) == group.units:
            raise UsageError(f"all {group.units} units of group {name!r} were selected; keep one at least")
        for member in group.members:
            positions = removed.setdefault((member.tensor, member.dim), set())
            positions.update(position for unit in chosen for position in member.indices[unit])
    cuts = {}
    for (name, dim), positions in removed.items():
        module, own = holder(model, name)
        size = getattr(module, own).shape[dim]
        if len(positions) >= size:
            raise UsageError(f"nothing would be left of dimension {dim} of {name!r}; select fewer units of its groups")
        if positions:
            cuts[name, dim] = Cut(size, tuple(sorted(positions)))
    return cuts


def cut(model: nn.Module, cuts: Cuts, edits: Edits) -> None:
    """Takes the positions out of the model's tensors and corrects the attributes of standard modules.

    Parameters become new ones (requires_grad and gradients as before); tied ones stay tied. Torch's attention becomes
    a `NarrowMultiheadAttention` where it must.
    StructureError where names, sizes or ties do not fit; then the changes made are still to be rolled back.
    """
    _replace(model, cuts, edits, _without)
    local: dict[int, tuple[nn.Module, str, dict[tuple[str, int], Cut]]] = {}
    for (name, dim), own in cuts.items():
        path, parameter = _owner(name)
        owner = model.get_submodule(path)
        local.setdefault(id(owner), (owner, path, {}))[2][parameter, dim] = own
    for module, path, own_cuts in local.values():
        try:
            wanted = standard_integers(module, {key: (own.size, own.removed) for key, own in own_cuts.items()})
        except StructureError as error:
            raise StructureError(f"module {path!r} ({type(module).__name__}): {error}") from error
        for keys, value in wanted.items():
            edits.integer(module, keys, value)
        if type(module) is nn.MultiheadAttention and module.num_heads * module.head_dim != module.embed_dim:
            edits.kind(module, NarrowMultiheadAttention)


def taken(name: str, tensor: Tensor, cuts: Cuts) -> Tensor:
    """What is left of the tensor of that name: a new one, or itself where nothing of it goes."""
    for dim, own in _of(name, cuts):
        tensor = tensor.index_select(dim, own.kept().to(tensor.device))
    return tensor


def embedded(name: str, tensor: Tensor, cuts: Cuts) -> Tensor:
    """The inverse of `taken`: the tensor in its size before, zero where positions went."""
    for dim, own in _of(name, cuts):
        whole = tensor.new_zeros((*tensor.shape[:dim], own.size, *tensor.shape[dim + 1 :]))
        tensor = whole.index_copy_(dim, own.kept().to(tensor.device), tensor)
    return tensor


def _of(name: str, cuts: Cuts) -> list[tuple[int, Cut]]:
    return [(dim, own) for (tensor, dim), own in cuts.items() if tensor == name]


def zero(model: nn.Module, cuts: Cuts, edits: Edits) -> None:
    """Puts copies in the place of the model's tensors whose positions that go are zero. Errors as `cut`."""
    _replace(model, cuts, edits, _zeroed)


def _replace(model: nn.Module, cuts: Cuts, edits: Edits, change: Callable[[Tensor, Mapping[int, Cut]], Tensor]) -> None:
    """Puts `change(tensor, what goes by dimension)` in every place of each tensor that is cut."""
    places = _places(model)
    whole: dict[int, tuple[Tensor, dict[int, Cut]]] = {}
    for (name, dim), own in cuts.items():
        module, attribute = holder(model, name)
        tensor: Tensor = getattr(module, attribute)
        if not 0 <= dim < tensor.dim() or tensor.shape[dim] != own.size:
            raise StructureError(
                f"{name!r} has the shape {tuple(tensor.shape)}; dimension {dim} was to be of size {own.size}"
            )
        dims = whole.setdefault(id(tensor), (tensor, {}))[1]
        if dims.setdefault(dim, own).removed != own.removed:
            raise StructureError(f"{name!r} is tied to a tensor of which other positions of dimension {dim} go")
        places.setdefault(id(tensor), [(module, attribute)])
    for key, (tensor, dims) in whole.items():
        changed = change(tensor, dims)
        for module, attribute in places[key]:
            edits.tensor(module, attribute, changed)


def _owner(name: str) -> tuple[str, str]:
    """The module that uses a tensor, and the parameter's name there: parametrized weights are held further inside."""
    parts = name.split(".")
    if _PARAMETRIZED in parts[:-2]:
        at = parts.index(_PARAMETRIZED)
        return ".".join(parts[:at]), parts[at + 1]
    return ".".join(parts[:-1]), parts[-1]


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where each tensor is held, by its identity."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _without(tensor: Tensor, dims: Mapping[int, Cut]) -> Tensor:
    """`tensor` without the positions; a parameter where it is one, its gradient cut alike."""
    if isinstance(tensor, nn.Parameter):
        parameter = nn.Parameter(_selected(tensor.detach(), dims), requires_grad=tensor.requires_grad)
        if tensor.grad is not None:
            parameter.grad = _selected(tensor.grad.detach(), dims)
        return parameter
    return _selected(tensor.detach(), dims)


def _zeroed(tensor: Tensor, dims: Mapping[int, Cut]) -> Tensor:
    changed = tensor.detach().clone()
    for dim, own in dims.items():
        changed.index_fill_(dim, torch.tensor(own.removed, device=tensor.device), 0)
    return nn.Parameter(changed, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else changed


def _selected(tensor: Tensor, dims: Mapping[int, Cut]) -> Tensor:
    channels_last = (
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    for dim, own in dims.items():
        tensor = tensor.index_select(dim, own.kept().to(tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor
