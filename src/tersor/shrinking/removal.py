"""Channels removed from a network: groups found, units chosen by worth until the target is met, tensors cut."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.costs import count_macs, macs_by_module
from tersor.errors import StructureError, UsageError, shortlist
from tersor.pruning import PruneChannels
from tersor.shrinking.channels import normalised
from tersor.shrinking.selection import Selected, eligible, numbers_left, select, share_that_meets
from tersor.structure.cuts import Cuts, selected_cuts
from tersor.structure.groups import Group, Groups, Selection, find_groups
from tersor.structure.surgery import shrink, shrink_where_possible
from tersor.structure.trace import Trace, trace

_CORRECTIONS = 6
"""Trials after which a target of MACs counts as missed: products of activations alone follow no weight's size."""


@dataclass(frozen=True)
class Origin:
    """A network before pruning began: what shares are shares of.

    macs: of one call; parameters: numbers in all of them.
    """

    macs: int
    parameters: int


@dataclass(frozen=True)
class Followed:
    """A network's groups, found on the example inputs of its trace. candidates: those that may lose units."""

    trace: Trace
    groups: Groups
    candidates: tuple[Group, ...]


@dataclass(frozen=True)
class Removed:
    """What is left. masks: of weights that are pruned, cut with them. notes: where less was removed than asked for.

    units: of groups that lost some, what they had before pruning began and what they have. cuts: what went of tensors.
    floors: of groups that keep more than was asked for, how much.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    units: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    cuts: Cuts = field(default_factory=dict)
    floors: Mapping[str, str] = field(default_factory=dict)


def follow(
    model: nn.Module,
    options: PruneChannels,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    but: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> Followed:
    """The groups of `model`. but: patterns of those that other rules decide on. only: names of groups that may lose
    units. These two may leave no candidates.

    StructureError, with what is frozen and why, where none may by the options; errors of `trace` where the network
    cannot be followed.
    """
    found = trace(model, tuple(args), dict(kwargs))
    groups = find_groups(found)
    named = eligible(groups.groups, options)
    candidates = [group for group in eligible(named, options, but) if only is None or group.name in only]
    if not named:
        allowed = eligible(groups.groups, replace(options, match=("*",)))
        if allowed:
            names = (member.tensor for group in allowed for member in group.members if member.role == "output")
            raise StructureError(
                f"match: {', '.join(options.match)} names no tensor that computes channels which may go, as these do: "
                f"{shortlist(dict.fromkeys(names))}"
            )
        left = sum(group.normalised for group in groups.groups)
        reasons = "; ".join(f"{frozen.tensor}: {frozen.reason}" for frozen in groups.frozen[:5])
        raise StructureError(
            f"no group of channels may lose units: {len(groups.groups)} found, {left} of them behind a normalisation "
            f"over channels (normalised=True takes them), others by keep. Frozen: {reasons or 'none'}"
        )
    return Followed(found, groups, tuple(candidates))


def origin_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Origin:
    """What `model` has, which holds no masks."""
    return Origin(count_macs(model, args, kwargs), sum(parameter.numel() for parameter in model.parameters()))


def units_before(groups: Sequence[Group], first: Sequence[Group]) -> dict[str, int]:
    """How many units each of the groups had among the `first` ones of the network, before pruning began.

    Where blocks were dropped in between, groups are named otherwise: those are known by a dimension of a tensor that
    is in one group alone.
    """
    names = {group.name: group.units for group in first}
    places: dict[tuple[str, int], set[str]] = {}
    for group in first:
        for member in group.members:
            places.setdefault((member.tensor, member.dim), set()).add(group.name)

    def of(group: Group) -> int:
        if group.name in names:
            return names[group.name]
        alone = [places.get((member.tensor, member.dim), set()) for member in group.members]
        return next((names[name] for owners in alone if len(owners) == 1 for name in owners), group.units)

    return {group.name: of(group) for group in groups}


def remove_channels(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    options: PruneChannels,
    followed: Followed,
    share: float,
    origin: Origin,
    before: Mapping[str, int],
    scores: Mapping[str, Tensor],
) -> Removed:
    """A smaller copy of `model` of which `share` of the target is left: of units, MACs or parameters of `origin`.

    model: without parametrizations that hold masks; `masks` are those that it had. before: units of each group before
        pruning began.
    Where heads fail to go, all groups are tried at the same share, in steps of one head: some networks take the width
    of heads from that of their input.
    UsageError where even the smallest network that the options allow is above the target of MACs or parameters.
    """
    by_macs = options.macs is not None or (options.scope == "global" and options.balance == "macs")
    estimate = _Estimate.of(model, followed) if by_macs else None
    if options.scope == "global":
        scores = _balanced(followed, scores, options, estimate)
    removal = _Removal(model, masks, options, followed, origin, before, scores)
    skip = options.on_failure == "skip"
    heads = math.gcd(*(before[group.name] for group in followed.candidates if group.kind == "head"))
    if heads < 2 or options.scope == "global":
        return _met(replace(removal, skip=skip), share, estimate)
    try:
        return _met(removal, share, estimate)
    except StructureError as error:
        try:
            return _met(replace(removal, parts=heads), share, estimate)
        except StructureError:
            if not skip:
                raise error from None
    return _met(replace(removal, skip=True), share, estimate)


def _met(removal: _Removal, share: float, estimate: _Estimate | None) -> Removed:
    """The network of which `share` of the target is left."""
    if removal.options.ratio is not None:
        return removal.shrunk(share)
    if removal.options.parameters is not None:
        return _to_parameters(removal, share * removal.origin.parameters)
    assert estimate is not None
    return _to_macs(removal, share * removal.origin.macs, estimate)


def _balanced(
    followed: Followed, scores: Mapping[str, Tensor], options: PruneChannels, estimate: _Estimate | None
) -> dict[str, Tensor]:
    """Scores that can be compared between groups; an estimate is needed to balance them by MACs."""
    found = {}
    for group in followed.candidates:
        saved = None
        if options.balance == "macs" and estimate is not None:
            saved = max(estimate({}) - estimate({group.name: [0]}), 1.0)
        found[group.name] = normalised(scores[group.name], options.balance, saved)
    return found


@dataclass(frozen=True)
class _Removal:
    """What `remove_channels` was given; its shares are of the units that there were before pruning began.

    skip:  leaves groups alone whose removal fails. parts: as of `select`.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    options: PruneChannels
    followed: Followed
    origin: Origin
    before: Mapping[str, int]
    scores: Mapping[str, Tensor]
    skip: bool = False
    parts: int = 1

    def selected(self, share: float) -> Selected:
        """The units that go so that `share` is left."""
        return select(self.followed.candidates, self.scores, share, self.options, self.before, self.parts)

    def shrunk(self, share: float) -> Removed:
        """The network without them."""
        followed, selected = self.followed, self.selected(share)
        selection: Selection = selected.removed
        notes: list[str] = []
        if self.parts > 1:
            notes.append(
                f"all groups keep the same share, a multiple of 1/{self.parts}: the network takes the width of its "
                "heads from that of their input"
            )
        if self.skip:
            found = shrink_where_possible(self.model, selection, followed.groups, followed.trace)
            smaller = found.model
            notes += [f"group {name} keeps all units: {error}" for name, error in found.skipped.items()]
            selection = {name: units for name, units in selection.items() if name not in found.skipped}
        else:
            smaller = shrink(self.model, selection, followed.groups, followed.trace)
        sizes = {group.name: group.units for group in followed.candidates}
        units = {name: (self.before[name], sizes[name] - len(gone)) for name, gone in selection.items()}
        cuts = selected_cuts(self.model, selection, followed.groups)
        floors = {name: f"{count} units" for name, count in selected.floors.items()}
        return Removed(smaller, _cut(self.masks, cuts), units, tuple(notes), cuts, floors)


def _cut(masks: Mapping[str, Tensor], cuts: Cuts) -> dict[str, Tensor]:
    """The masks of the smaller tensors."""
    found = dict(masks)
    for (name, dim), cut in cuts.items():
        if name in found:
            found[name] = found[name].index_select(dim, cut.kept().to(found[name].device))
    return found


def _to_parameters(removal: _Removal, target: float) -> Removed:
    shapes = {name: tuple(parameter.shape) for name, parameter in removal.model.named_parameters()}

    def numbers(share: float) -> float:
        return sum(numbers_left(shapes, removal.followed.candidates, removal.selected(share).removed).values())

    share = share_that_meets(numbers, target)
    if numbers(share) > target:
        raise UsageError(
            f"prune_channels: the target of {target:,.0f} parameters cannot be met; of "
            f"{removal.origin.parameters:,} groups must keep {numbers(0.0):,.0f}"
        )
    return removal.shrunk(share)


def _to_macs(removal: _Removal, target: float, estimate: _Estimate) -> Removed:
    """By an estimate from the sizes of weights, corrected by what the smaller networks turn out to take."""
    inputs = removal.followed.trace

    def macs(share: float) -> float:
        return estimate(removal.selected(share).removed)

    aim, least = target, float("inf")
    for number in range(_CORRECTIONS):
        share = share_that_meets(macs, aim)
        found = removal.shrunk(share)
        taken = count_macs(found.model, inputs.args, inputs.kwargs)
        if taken <= target:
            return found
        least = min(least, taken)
        if share <= 0:
            break
        aim -= 2**number * (taken - target)  # ever farther: sizes are steps
    raise UsageError(
        f"prune_channels: the target of {target:,.0f} multiply-accumulates cannot be met; of "
        f"{removal.origin.macs:,} the smallest network tried takes {least:,.0f}"
    )


@dataclass(frozen=True)
class _Estimate:
    """MACs of smaller networks: those of a module fall with the numbers in its weights.

    own: MACs of each module with weights; shapes: of these weights, by name; rest: MACs elsewhere.
    """

    own: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    candidates: Sequence[Group]
    rest: int

    @classmethod
    def of(cls, model: nn.Module, followed: Followed) -> _Estimate:
        """The estimate for smaller networks of `model`."""
        counts = macs_by_module(model, followed.trace.args, followed.trace.kwargs)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}
        owners = {name.rpartition(".")[0] for name in shapes}
        own = {}
        for path in owners:
            inner = [other for other in owners if _inside(other, path)]
            nearest = [other for other in inner if not any(_inside(other, between) for between in inner)]
            own[path] = counts.get(path, 0) - sum(counts.get(other, 0) for other in nearest)
        return cls(own, shapes, followed.candidates, counts[""] - sum(own.values()))

    def __call__(self, removed: Mapping[str, Sequence[int]]) -> float:
        left = numbers_left(self.shapes, self.candidates, removed)
        total = float(self.rest)
        for path, macs in self.own.items():
            names = [name for name in self.shapes if name.rpartition(".")[0] == path]
            before = sum(_numel(self.shapes[name]) for name in names)
            total += macs * sum(left[name] for name in names) / max(before, 1)
        return total


def _inside(path: str, outer: str) -> bool:
    return path != outer and (path.startswith(f"{outer}.") or outer == "")


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
