"""The masked network's output: what a network computes once removed units are zero.

It is the traced graph run with every member position of removed units set to zero, and with statistics over
channels taken over the channels that are left. A network that was shrunk by the same units must equal it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from tersor.errors import UsageError
from tersor.structure.groups import Groups, Selection
from tersor.structure.rules import argument, operation
from tersor.structure.trace import Trace, arguments


@torch.no_grad()
def masked_output(
    trace: Trace, groups: Groups, selection: Selection, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """What the masked network returns, nested as the model's own result; its tensors are not changed.

    Raises UsageError for groups or units that do not exist and for arguments nested unlike those of the trace.
    """
    removed = _removed(groups, selection)
    values = dict(zip(trace.inputs, arguments(trace, args, kwargs), strict=True))
    zeros: dict[str, list[tuple[int, list[int]]]] = {}
    for group in groups.groups:
        units = np.flatnonzero(removed[group.name])
        for member in group.members if units.size else ():
            positions = [p for u in units for p in member.indices[u]]
            zeros.setdefault(member.tensor, []).append((member.dim, positions))
    for name, tensor in trace.tensors.items():
        values[name] = _zeroed(tensor, [z for known in trace.names[name][:1] for z in zeros.get(known, [])])
    order = [node.name for node in trace.graph.graph.nodes if node.op == "placeholder"]
    results = _Masked(trace.graph, _kept(groups, removed)).run(*(values[name] for name in order))
    return pytree.tree_unflatten(list(results), trace.out_spec)


def _removed(groups: Groups, selection: Selection) -> dict[str, np.ndarray]:
    """Group name -> bool (units,), True where removed."""
    removed = {group.name: np.zeros(group.units, np.bool_) for group in groups.groups}
    for name, units in selection.items():
        if name not in removed:
            raise UsageError(f"there is no group {name!r}; the groups are named {', '.join(removed) or '(none)'}")
        wrong = [u for u in units if not 0 <= u < removed[name].size]
        if wrong:
            raise UsageError(f"group {name!r} has units 0 to {removed[name].size - 1}, not {wrong[0]}")
        removed[name][list(units)] = True
    return removed


def _zeroed(tensor: Tensor, zeros: list[tuple[int, list[int]]]) -> Tensor:
    """A copy of buffers, which operations in place could change, and of what is masked."""
    if not zeros and isinstance(tensor, torch.nn.Parameter):
        return tensor
    tensor = tensor.detach().clone()
    for dim, positions in zeros:
        tensor.index_fill_(dim, torch.tensor(positions, device=tensor.device), 0)
    return tensor


def _kept(groups: Groups, removed: Mapping[str, np.ndarray]) -> dict[str, list[tuple[tuple[int, ...], Tensor]]]:
    """Node -> (dimensions of its input, bool over them: True where kept), for those that see anything removed."""
    result: dict[str, list[tuple[tuple[int, ...], Tensor]]] = {}
    if not groups.groups:
        return result
    starts = np.cumsum([0, *(g.units for g in groups.groups)])
    every = np.concatenate([*(removed[g.name] for g in groups.groups), np.zeros(1, np.bool_)])
    for each in groups.statistics:
        at = np.where(each.group < 0, every.size - 1, starts[each.group] + each.unit)
        if every[at].any():
            result.setdefault(each.node, []).append((each.over, torch.from_numpy(~every[at])))
    return result


class _Masked(fx.Interpreter):
    """Runs the graph; nodes of `kept` take their statistics over the positions kept."""

    def __init__(self, module: fx.GraphModule, kept: Mapping[str, list[tuple[tuple[int, ...], Tensor]]]) -> None:
        super().__init__(module)
        self._by_node = kept

    def run_node(self, n: fx.Node) -> Any:
        """As `Interpreter.run_node`."""
        if n.name not in self._by_node:
            return super().run_node(n)
        x = self.env[n.args[0]]  # type: ignore[index]
        keep = torch.ones((1,) * x.dim(), dtype=torch.bool, device=x.device)
        for dims, mask in self._by_node[n.name]:
            shape = [x.shape[d] if d in dims else 1 for d in range(x.dim())]
            keep = keep & mask.reshape(shape).to(x.device)

        def of(name: str) -> Any:
            value = argument(n, name)
            return self.env[value] if isinstance(value, fx.Node) else value

        return _STATISTICS[operation(n)](x, keep.expand_as(x), of)


Of = Callable[[str], Any]


def _moments(x: Tensor, keep: Tensor, dims: list[int], correction: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions kept, the dimensions with size 1."""
    count = keep.sum(dims, keepdim=True)
    mean = torch.where(keep, x, 0).sum(dims, keepdim=True) / count
    square = torch.where(keep, x - mean, 0).square().sum(dims, keepdim=True)
    return mean, square / (count - correction)


def _reduction(name: str) -> Callable[[Tensor, Tensor, Of], Any]:
    def reduce(x: Tensor, keep: Tensor, of: Of) -> Any:
        dims = of("dim")
        dims = list(range(x.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
        correction = of("correction")
        if correction is None:
            correction = 0.0 if name == "mean" or of("unbiased") is False else 1.0
        mean, variance = _moments(x, keep, dims, float(correction))
        if not of("keepdim"):
            mean, variance = (t.squeeze(dims) for t in (mean, variance))
        spread = variance.sqrt() if name.startswith("std") else variance
        return mean if name == "mean" else (spread, mean) if name.endswith("_mean") else spread

    return reduce


def _layer_norm(x: Tensor, keep: Tensor, of: Of) -> Tensor:
    dims = list(range(x.dim() - len(of("normalized_shape")), x.dim()))
    mean, variance = _moments(x, keep, dims)
    return _affine((x - mean) * torch.rsqrt(variance + of("eps")), of("weight"), of("bias"))


def _rms_norm(x: Tensor, keep: Tensor, of: Of) -> Tensor:
    dims = list(range(x.dim() - len(of("normalized_shape")), x.dim()))
    square = torch.where(keep, x, 0).square().sum(dims, keepdim=True) / keep.sum(dims, keepdim=True)
    eps = of("eps")
    return _affine(x * torch.rsqrt(square + (torch.finfo(x.dtype).eps if eps is None else eps)), of("weight"), None)


def _group_norm(x: Tensor, keep: Tensor, of: Of) -> Tensor:
    shape = (x.shape[0], of("num_groups"), -1)
    mean, variance = _moments(x.reshape(shape), keep.reshape(shape), [2])
    normal = ((x.reshape(shape) - mean) * torch.rsqrt(variance + of("eps"))).reshape(x.shape)
    vectors = (None if v is None else v.reshape(-1, *(1,) * (x.dim() - 2)) for v in (of("weight"), of("bias")))
    return _affine(normal, *vectors)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_STATISTICS: dict[str, Callable[[Tensor, Tensor, Of], Any]] = {
    **{name: _reduction(name) for name in ("mean", "var", "std", "var_mean", "std_mean")},
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
}
