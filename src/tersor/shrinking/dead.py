"""Units that do nothing: nothing reads them, or they give the same numbers for every input, which fold into biases.

A unit is a hidden unit or a channel with all that goes with it (`structure.Group`). Where all weights that read it are
zero, the weights that compute it are of no use. Where all weights that compute it are zero it is a constant c, and the
layers that read it may add W c to their bias instead. One leads to the other, layer by layer, until nothing changes.
What is found is set to zero, which costs next to nothing in a file; `structure.surgery.shrink` removes it (with a trace
of the folded network: fold in place what was traced, or trace again).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.calibration.guard import untouched
from tersor.errors import StructureError, UsageError
from tersor.structure.edits import holder
from tersor.structure.groups import Group, Groups, Member
from tersor.structure.outputs import check_tolerance, difference, tensors_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_SAME = 1e-6
"""How far numbers may be apart, relative to the largest, to be one constant: functions round in two ways."""


@dataclass(frozen=True)
class Folded:
    """model: with zeros at all positions of its dead units. dead: group -> its dead units, ascending; no empty ones.

    A group of which all units are dead keeps the first: it is left out of `dead`, so that it can be passed to `shrink`.
    """

    model: nn.Module
    dead: Mapping[str, tuple[int, ...]]


def fold_dead(
    model: nn.Module,
    groups: Groups,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    constants: bool = True,
    fixed: Collection[str] = (),
    tolerance: float | None = None,
    inplace: bool = False,
) -> Folded:
    """The network without what its dead units do, which computes the same in evaluation mode.

    model:  with plain parameters, not held and not simulated. groups: of it, by `structure.groups.find_groups`.
    args, kwargs: example inputs of one call, best of several samples: constants are what they are seen to be there.
    constants: whether constant units are folded; without it only units that nothing reads are found, and the outputs
            stay the same to the bit.
    fixed:  names of biases that take no constants over.
    tolerance: how far outputs may move, relative to their largest value (None: 1e-4 in float32).

    A constant is folded into linear layers and convolutions that have a bias, or where it is 0. Convolutions that pad
    with zeros see no constant at their borders: there it must be 0. Groups behind a normalisation over channels, heads
    and hidden units of recurrent layers are left alone.
    Raises UsageError for a parametrized model, and for what is no tolerance; StructureError where outputs moved; with
    `inplace`, too, `model` is then unchanged.
    """
    check_tolerance(tolerance)
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise UsageError("dead units are looked for in plain parameters: finalize the model, or give a finalized copy")
    target = model if inplace else copy.deepcopy(model)
    before = {name: tensor.detach().clone() for name, tensor in target.state_dict().items()}
    try:
        with untouched(target, 0), torch.no_grad():
            _Folding(target, groups, args, dict(kwargs or {}), constants, fixed).run(tolerance)
    except BaseException:
        target.load_state_dict(before)
        raise
    return Folded(target, dead_units(target, groups))


@torch.no_grad()
def dead_units(model: nn.Module, groups: Groups) -> dict[str, tuple[int, ...]]:
    """Units of which every number that is computed or read is zero, as in `Folded`."""
    found = {}
    for group in filter(_may_fold, groups.groups):
        dead = _empty(model, group, "input") & _empty(model, group, "output")
        if bool(dead.all()):
            dead[0] = False
        if bool(dead.any()):
            found[group.name] = tuple(dead.nonzero().reshape(-1).tolist())
    return found


@dataclass(frozen=True)
class _Folding:
    """What `fold_dead` was given; `model` is changed."""

    model: nn.Module
    groups: Groups
    args: Sequence[Any]
    kwargs: dict[str, Any]
    constants: bool
    fixed: Collection[str]

    def run(self, tolerance: float | None) -> None:
        """StructureError where outputs moved."""
        wanted = tensors_of(self.model(*self.args, **self.kwargs))
        candidates = [group for group in self.groups.groups if _may_fold(group)]
        while any([self._drop_unread(group) for group in candidates]) or (
            self.constants and self._fold_constants(candidates)
        ):
            pass
        reason = difference(tensors_of(self.model(*self.args, **self.kwargs)), wanted, tolerance)
        if reason is not None:
            raise StructureError(f"dead units were not dead: {reason}. Leave their groups out, or raise tolerance")

    def _drop_unread(self, group: Group) -> bool:
        """Clears what computes the units that nothing reads; whether anything was cleared."""
        unread = _empty(self.model, group, "input")
        others = [member for member in group.members if member.role != "input"]
        changed = False
        for member in others:
            changed |= _clear(self.model, member, unread)
        return changed

    def _fold_constants(self, candidates: Sequence[Group]) -> bool:
        """One round; whether anything was folded."""
        constant = {group.name: _empty(self.model, group, "output") for group in candidates}
        readers = {
            member.tensor: module
            for group in candidates
            if bool((constant[group.name] & ~_empty(self.model, group, "input")).any())
            for member in group.members
            if member.role == "input" and (module := _reader(self.model, member)) is not None
        }
        if not readers:
            return False
        seen = self._inputs_of(readers)
        changed = False
        for group in candidates:
            inputs = [member for member in group.members if member.role == "input"]
            if all(member.tensor in seen for member in inputs):
                units = constant[group.name]
                for member in inputs:
                    fixed = f"{member.tensor.removesuffix('weight')}bias" in self.fixed
                    units = units & _foldable(readers[member.tensor], member, seen[member.tensor], fixed)
                for member in inputs:
                    changed |= _fold(self.model, readers[member.tensor], member, seen[member.tensor], units)
        return changed

    def _inputs_of(self, readers: Mapping[str, nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
        """By the reader's tensor: least and largest value of each input channel, float64 (I,)."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def remember(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().double()
            channel = x.dim() - 1 if isinstance(module, nn.Linear) else x.dim() - len(module.kernel_size) - 1  # type: ignore[arg-type]
            rows = x.movedim(channel, 0).flatten(1)
            low, high = rows.amin(1), rows.amax(1)
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = (low, high)

        handles = [
            module.register_forward_pre_hook(lambda module, inputs, name=name: remember(name, module, inputs))
            for name, module in readers.items()
        ]
        try:
            self.model(*self.args, **self.kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def _may_fold(group: Group) -> bool:
    roles = {member.role for member in group.members}
    return group.kind == "channel" and not group.normalised and {"input", "output"} <= roles


def _tensor(model: nn.Module, name: str) -> Tensor:
    module, own = holder(model, name)
    tensor: Tensor = getattr(module, own)
    return tensor


def _positions(member: Member) -> tuple[Tensor, Tensor]:
    """int64 each: positions along the dimension, and the unit that each belongs to."""
    places = [place for unit in member.indices for place in unit]
    owners = [number for number, unit in enumerate(member.indices) for _ in unit]
    return torch.tensor(places, dtype=torch.int64), torch.tensor(owners, dtype=torch.int64)


def _empty(model: nn.Module, group: Group, role: str) -> Tensor:
    """bool (U,) on the CPU: units of which all numbers in members of the role are zero."""
    empty = torch.ones(group.units, dtype=torch.bool)
    for member in group.members:
        if member.role == role:
            tensor = _tensor(model, member.tensor)
            filled = (tensor != 0).movedim(member.dim, 0).flatten(1).any(1).cpu()
            places, owners = _positions(member)
            empty[owners[filled[places]]] = False
    return empty


def _clear(model: nn.Module, member: Member, units: Tensor) -> bool:
    """Sets the positions of the units to zero; whether any was not."""
    tensor = _tensor(model, member.tensor)
    places, owners = _positions(member)
    chosen = places[units[owners]].to(tensor.device)
    if not tensor.is_floating_point() or not bool(tensor.index_select(member.dim, chosen).any()):
        return False
    tensor.index_fill_(member.dim, chosen, 0.0)
    return True


def _reader(model: nn.Module, member: Member) -> nn.Module | None:
    """The linear layer or ungrouped convolution that reads channels through this weight; None for others."""
    module, own = holder(model, member.tensor)
    if own != "weight" or member.dim != 1:
        return None
    known = type(module) is nn.Linear or (type(module) in _CONVOLUTIONS and module.groups == 1)
    return module if known else None


def _foldable(module: nn.Module, member: Member, seen: tuple[Tensor, Tensor], fixed: bool) -> Tensor:
    """bool (U,): units whose inputs to `module` are constants that its bias, unless it is fixed, can take over."""
    low, high = seen
    good = (high - low) <= _SAME * torch.maximum(high.abs(), low.abs())
    if module.bias is None or fixed or _pads_with_zeros(module):
        good &= (low == 0) & (high == 0)
    places, owners = _positions(member)
    units = torch.ones(len(member.indices), dtype=torch.bool)
    units[owners[~good.cpu()[places]]] = False
    return units


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, _CONVOLUTIONS) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" or (not isinstance(module.padding, str) and any(module.padding))


def _fold(model: nn.Module, module: nn.Module, member: Member, seen: tuple[Tensor, Tensor], units: Tensor) -> bool:
    """Adds W c to the bias and clears W's columns; whether any were not zero."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    places, owners = _positions(member)
    chosen = places[units[owners]].to(weight.device)
    columns = weight.index_select(1, chosen).double()
    columns = columns.flatten(2).sum(2) if columns.dim() > 2 else columns
    if isinstance(module.bias, Tensor):
        constants = (seen[0] + seen[1]).index_select(0, chosen) / 2
        module.bias.add_((columns @ constants).to(module.bias.dtype))
    return _clear(model, member, units)
