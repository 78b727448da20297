"""Units in another order: the same network, whose zeros lie together and so take fewer bytes in a file.

Which hidden unit comes first is of no matter to what a network computes. The coder expects of a row what the row before
had, and tells runs of dead rows in few bits: units that are alike belong beside each other, dead ones last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.structure.groups import Group, Groups, Member

_SIGNS = 0.5
"""What equal signs count beside equal places."""

Orders = Mapping[str, Sequence[int]]
"""Group name -> its units (numbers of before) in the order that they get."""


def alike(tensors: Mapping[str, Tensor], groups: Groups) -> dict[str, list[int]]:
    """An order of the units of each group of channels: living units first, as a chain of neighbours, dead ones last.

    tensors: of the network, by name. The chain starts with the unit of most non-zeros; next is always the unit that is
    most alike the last one: the cosine of where the two have non-zeros, and half of that of their signs. O(U^2 F) for U
    units of F numbers in all members.
    """
    return {group.name: _chain(_rows(tensors, group)) for group in groups.groups if _may_move(group)}


def permuted(tensors: Mapping[str, Tensor], groups: Groups, orders: Orders) -> dict[str, Tensor]:
    """The tensors with units in the order given; those of which nothing moves are the same objects.

    UsageError for unknown groups, or an order that does not name each unit once.
    """
    by_name = {group.name: group for group in groups.groups if _may_move(group)}
    result = dict(tensors)
    for name, order in orders.items():
        if name not in by_name:
            raise UsageError(f"group {name!r}: there is none of that name whose units may change places")
        group = by_name[name]
        if sorted(order) != list(range(group.units)):
            raise UsageError(f"group {name!r}: an order must name each of its units, 0 to {group.units - 1}, once")
        for member in group.members:
            if member.tensor in result:
                tensor = result[member.tensor]
                source = sources(member, order, tensor.shape[member.dim]).to(tensor.device)
                result[member.tensor] = tensor.index_select(member.dim, source)
    return result


def sources(member: Member, order: Sequence[int], size: int) -> Tensor:
    """int64 (size,): which position of before each position along the member's dimension holds in that order."""
    source = torch.arange(size)
    for place, unit in enumerate(order):
        source[list(member.indices[place])] = torch.tensor(member.indices[unit])
    return source


def _may_move(group: Group) -> bool:
    """Groups of a normalisation keep their order: it may be over parts of the channels."""
    sizes = {len(indices) for member in group.members for indices in member.indices}
    by_member = all(len({len(indices) for indices in member.indices}) == 1 for member in group.members)
    return group.kind == "channel" and not group.normalised and bool(sizes) and by_member


def _rows(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """(U, F) float32 on the CPU: the signs of the unit's numbers, in weights that compute or read it; 0 for zeros."""
    parts = []
    for member in group.members:
        tensor = tensors.get(member.tensor)
        if member.role != "vector" and tensor is not None:
            signs = tensor.detach().cpu().float().sign().movedim(member.dim, 0).flatten(1)
            places = torch.tensor([list(unit) for unit in member.indices])
            parts.append(signs[places].flatten(1))
    return torch.cat(parts, 1)


def _chain(rows: Tensor) -> list[int]:
    """The order of the rows (U, F) of -1, 0 and 1, as `alike` says. Equal candidates: the lower number first."""
    live = rows.abs()
    counts = live.sum(1)
    near = (live @ live.T + _SIGNS * (rows @ rows.T)) / (counts[:, None] * counts[None, :]).sqrt().clamp(min=1.0)
    left = counts > 0
    order: list[int] = []
    last = int(counts.argmax()) if len(counts) else 0
    while bool(left.any()):
        order.append(last)
        left[last] = False
        last = int(torch.where(left, near[last], torch.tensor(-2.0)).argmax())
    return order + (counts == 0).nonzero().reshape(-1).tolist()
