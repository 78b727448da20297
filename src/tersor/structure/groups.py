"""Which positions of which tensors shrink together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tersor.structure.follow import follow
from tersor.structure.rules import Context
from tersor.structure.trace import Trace
from tersor.structure.units import KINDS, ROLES, Atoms, Classes

Selection = Mapping[str, Sequence[int]]
"""Group name -> the units that are removed."""


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor of a group.

    tensor:  its name in the state_dict (parameters and buffers; a tied tensor is listed under each name).
    dim:     the dimension.
    indices: for each unit of the group, the positions along `dim` that go with it, ascending.
    role:    "output": the tensor computes the channel; "input": it reads it; "vector": one number a channel
             (norms, biases, running moments) or a table whose columns they are.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    role: str


@dataclass(frozen=True)
class Group:
    """Units that are members of the same dimensions of the same tensors; each can be removed by itself.

    name:       the tensor of the first output member; a number is added where that name is taken.
    kind:       "channel", "head" (of attention) or "hidden" (of a recurrent layer).
    units:      how many there are.
    normalised: the channels pass a normalisation over channels (layer, group or RMS norm, a mean), so that
                removing some changes what the others become.
    """

    name: str
    kind: str
    units: int
    members: tuple[Member, ...]
    normalised: bool


@dataclass(frozen=True)
class Frozen:
    """A dimension of a tensor that keeps (some of) its positions, and why."""

    tensor: str
    dim: int
    reason: str


@dataclass(frozen=True)
class Statistics:
    """An operation that takes statistics over channels of its first argument.

    node:  its name in the graph.
    over:  the dimensions of the argument that `group` and `unit` describe, in order.
    reduced: the dimensions that statistics are taken over.
    group: int64, for each position the number of its group, or -1 where it stays.
    unit:  int64, the unit in that group.
    """

    node: str
    reduced: tuple[int, ...]
    over: tuple[int, ...]
    group: NDArray[np.int64]
    unit: NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """What of a network can shrink, what cannot, and where statistics see what is removed."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    statistics: tuple[Statistics, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class _Dimension:
    """A labelled dimension of a tensor that has a name. atoms: int64 (size,)."""

    names: tuple[str, ...]
    dim: int
    atoms: Atoms


def find_groups(trace: Trace) -> Groups:
    """The groups of a traced network, in the order of its parameters; names are the same in every run.

    Whatever cannot be followed is frozen, with the operation and the module that ran it as the reason.
    """
    context = follow(trace)
    dimensions = _dimensions(context, trace)
    classes = context.units.classes()
    keys = _keys(dimensions, classes)
    groups: list[Group] = []
    frozen: list[Frozen] = []
    taken: dict[str, int] = {}
    group_of, unit_of = (np.full(classes.roots.size, -1, np.int64) for _ in range(2))
    for numbers, roots in keys:
        places = [dimensions[n] for n in numbers]
        found, ordered = _group(places, roots, classes, taken)
        alone = found.units == 1 and any(len(m.indices[0]) == d.atoms.size for m, d in _paired(found, places))
        if alone:
            reason = "all its positions are one unit, and one has to stay"
            frozen.extend(Frozen(m.tensor, m.dim, reason) for m in found.members)
            continue
        group_of[ordered], unit_of[ordered] = len(groups), np.arange(ordered.size)
        groups.append(found)
    frozen.extend(_frozen(dimensions, classes))
    statistics = _statistics(context, classes, group_of, unit_of)
    return Groups(tuple(groups), tuple(frozen), statistics)


def _dimensions(context: Context, trace: Trace) -> list[_Dimension]:
    """Of all parameters and saved buffers, tied ones once; those that nothing reads are frozen."""
    found: dict[int, list[_Dimension]] = {}
    used = {id(trace.tensors[n.name]) for n in trace.graph.graph.nodes if n.name in trace.tensors and n.users}
    for node in trace.graph.graph.nodes:
        if node.op != "placeholder" or not trace.names.get(node.name) or id(trace.tensors[node.name]) in found:
            continue
        key = id(trace.tensors[node.name])
        factors = context.initial[key].factors if key in context.initial else ()
        if key not in used:
            for factor in factors:
                context.units.freeze(factor.atoms, "nothing that the network returns depends on it")
        found[key] = [_Dimension(trace.names[node.name], f.dims[0], f.atoms) for f in factors]
    return [dimension for each in found.values() for dimension in each]


def _keys(dimensions: Sequence[_Dimension], classes: Classes) -> list[tuple[tuple[int, ...], Atoms]]:
    """(numbers of the dimensions, roots of the free classes whose members are exactly those), in order."""
    if not dimensions:
        return []
    roots = np.concatenate([classes.roots[d.atoms] for d in dimensions])
    numbers = np.repeat(np.arange(len(dimensions)), [d.atoms.size for d in dimensions])
    free = classes.why[roots] == 0
    pairs = np.unique(roots[free] * len(dimensions) + numbers[free])
    owners, places = np.divmod(pairs, len(dimensions))
    starts = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
    first, place = owners.tolist(), places.tolist()
    found: dict[tuple[int, ...], list[int]] = {}
    for start, end in pairwise([*starts, len(pairs)]):
        found.setdefault(tuple(place[start:end]), []).append(first[start])
    return sorted((key, np.array(roots)) for key, roots in found.items())


def _group(places: Sequence[_Dimension], roots: Atoms, classes: Classes, taken: dict[str, int]) -> tuple[Group, Atoms]:
    """A group, and the roots of its units in order: by their first position in the dimension it is named after."""
    roles = [ROLES[int(classes.role[d.atoms].max())] for d in places]
    first = next((i for i, role in enumerate(roles) if role == "output"), 0)
    along = classes.roots[places[first].atoms]
    along = along[np.isin(along, roots)]
    ordered = along[np.sort(np.unique(along, return_index=True)[1])]
    members: list[Member] = []
    for place, role in zip(places, roles, strict=True):
        indices = _indices(classes.roots[place.atoms], ordered)
        members.extend(Member(name, place.dim, indices, role) for name in place.names)
    name = places[first].names[0]
    taken[name] = taken.get(name, 0) + 1
    number = "" if taken[name] == 1 else f"#{taken[name]}"
    kind = KINDS[int(classes.kind[ordered].max())]
    return Group(name + number, kind, ordered.size, tuple(members), bool(classes.normalised[ordered].any())), ordered


def _indices(roots: Atoms, ordered: Atoms) -> tuple[tuple[int, ...], ...]:
    """For each of the classes the positions that belong to it."""
    ranks = np.argsort(ordered)
    at = np.searchsorted(ordered[ranks], roots).clip(max=ordered.size - 1)
    inside = np.flatnonzero(ordered[ranks][at] == roots)
    units = ranks[at[inside]]
    order = np.argsort(units, kind="stable")
    positions = inside[order].tolist()
    ends = np.cumsum(np.bincount(units, minlength=ordered.size)).tolist()
    return tuple(tuple(positions[start:end]) for start, end in pairwise([0, *ends]))


def _paired(group: Group, places: Sequence[_Dimension]) -> list[tuple[Member, _Dimension]]:
    return list(zip(group.members, [p for p in places for _ in p.names], strict=True))


def _frozen(dimensions: Sequence[_Dimension], classes: Classes) -> list[Frozen]:
    """Dimensions with frozen positions, each with the first reason; kernels have none worth a word."""
    result: list[Frozen] = []
    for place in dimensions:
        why = classes.why[classes.roots[place.atoms]]
        reason = classes.reasons[int(why[why > 0].min())] if why.any() else ""
        if reason:
            result.extend(Frozen(name, place.dim, reason) for name in place.names)
    return result


def _statistics(
    context: Context, classes: Classes, group_of: NDArray[np.int64], unit_of: NDArray[np.int64]
) -> tuple[Statistics, ...]:
    result = []
    for each in context.normalised:
        for factor in each.labels.factors:
            if set(factor.dims) & set(each.dims):
                roots = classes.roots[factor.atoms]
                result.append(Statistics(each.node.name, each.dims, factor.dims, group_of[roots], unit_of[roots]))
    return tuple(result)
