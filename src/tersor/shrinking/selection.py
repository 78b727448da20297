"""Scores of units to the units that go: how many of each group, and which. Pure functions.

Legend: a group's share is what is left of the units that it had before pruning began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tersor.pruning import PruneChannels
from tersor.structure.groups import Group

_HALVINGS = 40


@dataclass(frozen=True)
class Selected:
    """removed: units that go, ascending, by group; groups that lose none are left out. floors: of groups that keep
    more than was asked for, the number that they keep."""

    removed: dict[str, list[int]]
    floors: dict[str, int]


def eligible(groups: Sequence[Group], options: PruneChannels, but: Sequence[str] = ()) -> list[Group]:
    """The groups that may lose units by `match`, `keep` and `normalised`; not those that patterns `but` match, too."""

    def named(group: Group, patterns: Sequence[str], roles: Sequence[str]) -> bool:
        names = [member.tensor for member in group.members if member.role in roles]
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    return [
        group
        for group in groups
        if (options.normalised or not group.normalised)
        and (named(group, options.match, ("output",)) or (options.match == ("*",)))
        and not named(group, but, ("output",))
        and not named(group, options.keep, ("output", "input", "vector"))
    ]


def select(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    share: float,
    options: PruneChannels,
    before: Mapping[str, int] | None = None,
    parts: int = 1,
) -> Selected:
    """The units that go so that `share` of the units is left.

    scores: float (units,) of each group, the higher the more worth keeping; of equal ones the first are kept. With
        scope "global" those of different groups are compared as they are.
    before: the units that groups had before pruning began, where that was earlier: what `share` is a share of.
    parts:  with scope "group", shares are rounded up to multiples of 1 / parts, so that they are the same everywhere.
    """
    sizes = {group.name: (before or {}).get(group.name, group.units) for group in groups}
    if options.scope == "group" or not groups:
        even = math.ceil(share * parts - 1e-9)
        wanted = {
            name: math.ceil(even * size / parts) if parts > 1 else round(share * size) for name, size in sizes.items()
        }
    else:
        wanted = _counts_by_worth(groups, scores, round(share * sum(sizes.values())))
    removed, floors = {}, {}
    for group in groups:
        count = min(max(wanted[group.name], options.min_units, 1), group.units)
        count = min(math.ceil(count / options.round_to) * options.round_to, group.units)
        if count > wanted[group.name] and wanted[group.name] < max(options.min_units, 1):
            floors[group.name] = count
        if count < group.units:
            order = torch.argsort(scores[group.name].double(), descending=True, stable=True)
            removed[group.name] = sorted(order[count:].tolist())
    return Selected(removed, floors)


def _counts_by_worth(groups: Sequence[Group], scores: Mapping[str, Tensor], total: int) -> dict[str, int]:
    """How many units of each group are among the `total` of most worth."""
    joined = torch.cat([scores[group.name].double() for group in groups])
    kept = torch.zeros(joined.shape, dtype=torch.bool)
    kept[torch.argsort(joined, descending=True, stable=True)[:total]] = True
    counts = [int(part.sum()) for part in kept.split([group.units for group in groups])]
    return {group.name: count for group, count in zip(groups, counts, strict=True)}


def share_that_meets(cost: Callable[[float], float], target: float, low: float = 0.0, high: float = 1.0) -> float:
    """The largest share of units at which `cost` is at most `target`; `low` where none is.

    cost: of a share, never falling with it, a step function.
    """
    if cost(high) <= target:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(middle) <= target:
            low = middle
        else:
            high = middle
        if high - low < 1e-6:
            break
    return low


def numbers_left(
    shapes: Mapping[str, Sequence[int]], groups: Sequence[Group], removed: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """How many numbers each tensor of `shapes` has left."""
    gone: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        for member in group.members:
            positions = gone.setdefault((member.tensor, member.dim), set())
            for unit in removed.get(group.name, ()):
                positions.update(member.indices[unit])
    left = {}
    for name, shape in shapes.items():
        sizes = [size - len(gone.get((name, dim), ())) for dim, size in enumerate(shape)]
        left[name] = math.prod(sizes)
    return left
