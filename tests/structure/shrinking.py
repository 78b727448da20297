"""A network shrunk by hand: the slow twin of the masked network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from tersor.structure.groups import Group, Groups, find_groups
from tersor.structure.masked import masked_output
from tersor.structure.trace import trace

Patch = Callable[[nn.Module, Mapping[str, Sequence[int]]], None]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and moments that differ everywhere, so that a wrong position is seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if value.is_floating_point() and name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.dim() > 1 else 0.7))
    return model.eval()


def shrunk(model: nn.Module, groups: Groups, selection: Mapping[str, Sequence[int]], patch: Patch | None) -> nn.Module:
    """A copy of which the members of removed units are cut off; layers' attributes follow from their tensors."""
    model = copy.deepcopy(model)
    state = model.state_dict(keep_vars=True)
    gone: dict[int, dict[int, set[int]]] = {}
    for group in groups.groups:
        for member in group.members:
            positions = {p for u in selection.get(group.name, ()) for p in member.indices[u]}
            gone.setdefault(id(state[member.tensor]), {}).setdefault(member.dim, set()).update(positions)
    for value in {id(v): v for v in state.values()}.values():
        for dim, positions in gone.get(id(value), {}).items():
            keep = torch.tensor([i for i in range(value.shape[dim]) if i not in positions], dtype=torch.long)
            value.data = value.data.index_select(dim, keep)
    for module in model.modules():
        _follow(module)
    if patch is not None:
        patch(model, selection)
    return model


def _follow(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups > 1:
        depthwise = module.weight.shape[1] == 1
        module.groups = module.weight.shape[0] // (module.out_channels // module.groups) if depthwise else module.groups
    if isinstance(module, nn.InstanceNorm2d):
        module.num_features = module.weight.shape[0]
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    if isinstance(module, nn.RMSNorm):
        module.normalized_shape = tuple(module.weight.shape)
    if isinstance(module, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        module.hidden_size = module.weight_ih_l0.shape[0] // gates
        module.input_size = module.weight_ih_l0.shape[1]
        module.proj_size = module.weight_hr_l0.shape[0] if module.proj_size else 0


def half(group: Group, seed: int) -> list[int]:
    """About half of the units, at random, never all."""
    count = min(group.units - 1, max(1, group.units // 2))
    return sorted(np.random.default_rng(seed).choice(group.units, count, replace=False).tolist())


def check(
    model: nn.Module,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    patch: Patch | None = None,
    tolerance: float = 1e-4,
) -> Groups:
    """Shrinks each group by itself, then all at once: each time the result equals the masked network's.

    Returns the groups, for what a test says of them.
    """
    kwargs = kwargs or {}
    randomised(model)
    found = trace(model, args, kwargs)
    groups = find_groups(found)
    selections = [{g.name: half(g, i)} for i, g in enumerate(groups.groups) if g.units > 1]
    together = {name: units for selection in selections for name, units in selection.items()}
    for selection in [{}, *selections, together]:
        expected = masked_output(found, groups, selection, args, kwargs)
        with torch.no_grad():
            given = shrunk(model, groups, selection, patch)(*args, **kwargs)
        for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(given), strict=True):
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, s=selection: f"{s}: {m}")
    return groups


def members(group: Group) -> dict[tuple[str, int], tuple[int, ...]]:
    """(tensor, dim) -> the positions of the first unit."""
    return {(m.tensor, m.dim): m.indices[0] for m in group.members}


def named(groups: Groups, name: str) -> Group:
    """The group of this name."""
    return next(g for g in groups.groups if g.name == name)


def reasons(groups: Groups) -> dict[tuple[str, int], str]:
    """(tensor, dim) -> why it is frozen."""
    return {(f.tensor, f.dim): f.reason for f in groups.frozen}
