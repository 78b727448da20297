"""Which units go: by the L1 norm of what computes them, the same share of every group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.structure.groups import Group, Groups


def unit_norms(group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
    """L1 norm of each unit over the group's outputs (over all members where there is none), float64 (units,)."""
    members = [member for member in group.members if member.role == "output"] or list(group.members)
    norms = torch.zeros(group.units, dtype=torch.float64)
    for member in members:
        values = tensors[member.tensor].detach().double().abs()
        rows = values.movedim(member.dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
        norms += torch.stack([rows[list(positions)].sum() for positions in member.indices])
    return norms


def by_l1(model: nn.Module, groups: Groups, share: float) -> dict[str, list[int]]:
    """Group name -> the `share` of its units of least norm (rounded down, one at least stays)."""
    tensors = model.state_dict(keep_vars=True)
    found = {}
    for group in groups.groups:
        count = min(int(share * group.units), group.units - 1)
        if count > 0:
            found[group.name] = sorted(unit_norms(group, tensors).argsort(stable=True)[:count].tolist())
    return found
