"""Integers in a network's own modules (`num_heads`, `split_size`) that must follow when tensors are cut.

Python code may use them in views and splits, or may not: which ones it needs is found by trying. Candidates are the
integers of the module where the forward pass fails, of what it holds and of what holds it, that were the size of
something that was cut; names that say what they count come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice, product

from torch import nn

from tersor.structure.cuts import Cuts
from tersor.structure.edits import Edits, Keys, integers
from tersor.structure.groups import Groups, Selection

_TRIES = 64
_PAIRED = 8
_READINGS = 16
_WIDTHS = ("embed", "hidden", "inner", "split", "dim", "size", "width", "channel", "feature", "plane", "model", "units")

Integers = dict[tuple[str, Keys], int]


@dataclass(frozen=True)
class Failure:
    """How a forward pass of the shrunk network went wrong.

    modules: names of those that were running, the innermost first. progress: operations that ran before.
    reason:  for messages. error: what was raised; None where the pass came to its end with other numbers.
    """

    modules: tuple[str, ...]
    progress: int
    reason: str
    error: Exception | None


@dataclass(frozen=True)
class _Size:
    """Something that was `before` and is `after`: a dimension of a tensor, or the units of a group."""

    before: int
    after: int
    tensor: str
    dim: int  # -1 for units


@dataclass(frozen=True)
class _Proposal:
    """A new value of an integer, or of all equal ones of a tuple; `rank` is lower where the name speaks for it."""

    places: tuple[Keys, ...]
    before: int
    value: int
    rank: int
    source: tuple[int, str, int]  # steps up, tensor from there, its dimension (-1: the units of its group)


Attempt = Callable[[], "Failure | None"]


class Search:
    """Sets integers of `root` until `attempt` succeeds: depth first, a bounded number of attempts.

    root has its tensors cut already. `found` holds what was set.
    """

    def __init__(
        self, root: nn.Module, cuts: Cuts, selection: Selection, groups: Groups, edits: Edits, attempt: Attempt
    ) -> None:
        self.found: Integers = {}
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._sizes: dict[str, list[_Size]] = {}  # by the names of all modules that the tensor is in
        for size in _sizes(cuts, selection, groups):
            parts = size.tensor.split(".")
            for count in range(len(parts)):
                self._sizes.setdefault(".".join(parts[:count]), []).append(size)
        self._edits = edits
        self._attempt = attempt
        self._left = _TRIES

    def run(self) -> Failure | None:
        """None if the network works; else the first failure, and the integers are what they were."""
        failure = self._attempt()
        if failure is None or self._solve(failure):
            return None
        return failure

    def _solve(self, failure: Failure) -> bool:
        for changes in self._options(failure):
            if self._left <= 0:
                return False
            self._left -= 1
            mark, before = self._edits.mark(), dict(self.found)
            for (name, keys), value in changes.items():
                self._edits.integer(self._modules[name], keys, value)
            self.found.update(changes)
            after = self._attempt()
            if after is None or (after.progress > failure.progress and self._solve(after)):
                return True
            self._edits.rollback(mark)
            self.found = before
        return False

    def _options(self, failure: Failure) -> Iterator[Integers]:
        """Sets of changes worth a try, the likeliest first; each for all modules of the kind that it is for."""
        seen: set[frozenset[tuple[tuple[str, Keys], int]]] = set()
        for name in self._holders(failure):
            proposals = self._proposals(name)
            for chosen in _combined(proposals):
                changes = self._everywhere(name, chosen)
                key = frozenset(changes.items())
                if changes and key not in seen:
                    seen.add(key)
                    yield changes

    def _holders(self, failure: Failure) -> Iterable[str]:
        """Modules whose integers may be to blame: the one that failed, what it holds, what holds it."""
        if failure.error is None:
            return [name for name in self._modules if name in self._sizes]
        ordered: dict[str, None] = {}
        for name in failure.modules:
            ordered[name] = None
            start = f"{name}." if name else ""
            ordered.update(dict.fromkeys(n for n in self._modules if n in self._sizes and n.startswith(start)))
        return ordered

    def _proposals(self, name: str) -> list[_Proposal]:
        """New values for the integers of a module, by what was cut in it, or, if nothing fits, around it."""
        held: dict[tuple[Keys, int], list[Keys]] = {}
        for keys, value in integers(self._modules[name]).items():
            if (name, keys) not in self.found:
                listed = len(keys) > 1 and type(keys[-1]) is int
                held.setdefault((keys[:-1] if listed else keys, value), []).append(keys)
        parts = name.split(".") if name else []
        found: dict[tuple[Keys, int], _Proposal] = {}
        for up in range(len(parts) + 1):
            start = ".".join(parts[: len(parts) - up])
            for size in self._sizes.get(start, ()):
                source = (up, size.tensor.removeprefix(start), size.dim)
                for (keys, value), places in held.items():
                    fit = _fitted(keys, value, size)
                    if fit is not None:
                        new, rank = fit
                        if (keys, new) not in found or rank < found[keys, new].rank:
                            found[keys, new] = _Proposal(tuple(places), value, new, rank, source)
            if found:
                break
        return sorted(found.values(), key=lambda each: each.rank)

    def _everywhere(self, name: str, chosen: Iterable[_Proposal]) -> Integers:
        """The changes for the module `name`, and the same ones for others of its class."""
        kind = type(self._modules[name])
        chosen = tuple(chosen)
        changes = {(name, keys): each.value for each in chosen for keys in each.places}
        wanted = {(each.places, each.source) for each in chosen}
        done = {id(self._modules[name])}
        for other, module in self._modules.items():
            if type(module) is not kind or id(module) in done:
                continue
            done.add(id(module))
            for each in self._proposals(other):
                if (each.places, each.source) in wanted:
                    for keys in each.places:
                        changes.setdefault((other, keys), each.value)
        return changes


def _combined(proposals: list[_Proposal]) -> Iterator[tuple[_Proposal, ...]]:
    """All whose names speak for them, for each way to read what a size became; then each by itself; then pairs."""
    best = [each for each in proposals if each.rank == 0]
    readings: dict[int, dict[int, None]] = {}  # a size -> what it may have become
    for each in best:
        readings.setdefault(each.before, {})[each.value] = None
    for values in islice(product(*readings.values()), _READINGS):
        became = dict(zip(readings, values, strict=True))
        chosen = tuple(each for each in best if each.value == became[each.before])
        if len(chosen) > 1:
            yield chosen
    for each in proposals:
        yield (each,)
    yield from (pair for pair in combinations(proposals[:_PAIRED], 2) if _apart(pair))


def _apart(proposals: Iterable[_Proposal]) -> bool:
    keys = [keys for each in proposals for keys in each.places]
    return len(set(keys)) == len(keys)


def _sizes(cuts: Cuts, selection: Selection, groups: Groups) -> Iterator[_Size]:
    for (name, dim), own in cuts.items():
        yield _Size(own.size, own.left, name, dim)
    for group in groups.groups:
        gone = len(set(selection.get(group.name, ())))
        if gone:
            for member in group.members:
                yield _Size(group.units, group.units - gone, member.tensor, -1)


def _fitted(keys: Keys, value: int, size: _Size) -> tuple[int, int] | None:
    """(new value, rank) of an integer that may be this size, a part or a multiple of it; None if it cannot be."""
    if value <= 1 or size.before == size.after:
        return None
    name = next(str(key) for key in reversed(keys) if isinstance(key, str)).lower()
    counts = "head" in name and not any(word in name for word in ("dim", "size", "width"))
    wide = not counts and any(word in name for word in _WIDTHS)
    if value == size.before:
        speaks = (counts if size.dim < 0 else wide) and len(keys) < 3  # settings in lists of configs are of all layers
        return size.after, 0 if speaks else 1 if counts else 3
    if size.dim < 0 or (value % size.before and size.before % value) or value * size.after % size.before:
        return None
    return value * size.after // size.before, 1 if counts else 2 if wide else 4


def named(found: Mapping[tuple[str, Keys], int]) -> dict[str, int]:
    """What a search set, for messages: "layer.0.attention.num_heads" -> 3."""
    return {".".join(map(str, (name, *keys))).lstrip("."): value for (name, keys), value in found.items()}
