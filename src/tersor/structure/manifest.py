"""What was removed from a network, as a small JSON text: enough to rebuild its shapes from its original class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tersor.errors import StructureError, TersorError
from tersor.structure.cuts import Cut, Cuts, cut
from tersor.structure.dropped import Dropped
from tersor.structure.edits import Edits, Keys, integers
from tersor.versioned import read_versioned

NAME = "tersor.structure"
"""Of the attachment in a .tsr file, and of the key in a state_dict's metadata."""

_FORMAT = 1
_LIMIT = 64 << 20  # characters
_POSITIONS = 1 << 23  # in all lists together: a short text may ask for many


@dataclass(frozen=True)
class Manifest:
    """Differences of a shrunk network from a fresh one of its class. Positions and sizes are those of the fresh one.

    blocks:   names of submodules that were dropped. They are dropped first.
    cuts:     what goes of the tensors that are left.
    integers: (module, way to an integer of it, see `edits.integers`) -> its value, where that does not follow from the
              shapes (`attributes.standard_integers`).
    """

    blocks: tuple[str, ...] = ()
    cuts: Cuts = field(default_factory=dict)
    integers: Mapping[tuple[str, Keys], int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.blocks or self.cuts or self.integers)

    def __str__(self) -> str:
        """In a few words, for reports."""
        tensors = len({name for name, _ in self.cuts})
        words = [f"{tensors} tensors smaller"] if tensors else []
        words += [f"{len(self.blocks)} blocks dropped"] if self.blocks else []
        return ", ".join(words) or "nothing removed"

    def then(self, later: Manifest) -> Manifest:
        """This one and then `later`, whose positions are those of the network that this one leaves."""
        cuts = dict(self.cuts)
        for key, second in later.cuts.items():
            first = cuts.get(key)
            if first is None:
                cuts[key] = second
                continue
            kept = first.kept()
            if len(kept) != second.size:
                raise StructureError(f"{key[0]!r}: {first.left} positions are left, but {second.size} were expected")
            cuts[key] = Cut(first.size, tuple(sorted([*first.removed, *kept[list(second.removed)].tolist()])))
        values = {**self.integers, **later.integers}
        blocks = [name for name in self.blocks if not _inside(name, later.blocks)]
        return Manifest(
            (*blocks, *later.blocks),
            {key: own for key, own in cuts.items() if not _inside(key[0], later.blocks)},
            {key: value for key, value in values.items() if not _inside(key[0], later.blocks)},
        )

    def within(self, prefix: str) -> Manifest:
        """The same of a module that holds this one's network under the name `prefix`."""
        start = f"{prefix}." if prefix else ""
        return Manifest(
            tuple(start + name for name in self.blocks),
            {(start + name, dim): own for (name, dim), own in self.cuts.items()},
            {((start + name).rstrip("."), keys): value for (name, keys), value in self.integers.items()},
        )

    def to_json(self) -> str:
        """The text that `from_json` reads. Tensors that lose the same positions are listed together."""
        alike: dict[tuple[int, tuple[int, ...]], dict[str, list[int]]] = {}
        for (name, dim), own in self.cuts.items():
            alike.setdefault((own.size, own.removed), {}).setdefault(name, []).append(dim)
        top = {
            "format": _FORMAT,
            "blocks": list(self.blocks),
            "cuts": [
                {"of": size, "removed": _runs(removed), "in": tensors} for (size, removed), tensors in alike.items()
            ],
            "integers": [[name, list(keys), value] for (name, keys), value in self.integers.items()],
        }
        return json.dumps(top, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """The inverse of `to_json`. StructureError for anything else; what it says is checked when it is applied."""
        return read_versioned(
            text,
            cls._of,
            version=_FORMAT,
            limit=_LIMIT,
            error=StructureError,
            what="the structure stored with the network",
        )

    @classmethod
    def _of(cls, top: Mapping[str, Any]) -> Manifest:
        cuts: dict[tuple[str, int], Cut] = {}
        budget = _POSITIONS
        for entry in top["cuts"]:
            own = Cut(_integer(entry["of"]), _positions(entry["removed"], _integer(entry["of"]), budget))
            budget -= len(own.removed)
            for name, dims in entry["in"].items():
                for dim in dims:
                    if (name, _integer(dim)) in cuts:
                        raise ValueError(f"dimension {dim} of {name!r} is listed twice")
                    cuts[name, dim] = own
        values = {(_text(name), _keys(keys)): _integer(value) for name, keys, value in top["integers"]}
        return cls(tuple(map(_text, top["blocks"])), cuts, values)


def apply_manifest(module: nn.Module, manifest: Manifest, edits: Edits | None = None) -> None:
    """Makes a fresh instance of the original class as small as the network that `manifest` is of, in place.

    Nothing is traced or run. Values of the tensors are those of `module` at the positions that stay; load others after.
    edits: records the changes, so that the caller can take them back; else they stand.
    StructureError if a tensor, dimension, block or integer is not as the manifest says; `module` is then unchanged.
    """
    edits = Edits() if edits is None else edits
    mark = edits.mark()
    try:
        for name in manifest.blocks:
            drop(module, name, edits)
        _check_integers(module, manifest.integers)
        cut(module, manifest.cuts, edits)
        for (path, keys), value in manifest.integers.items():
            edits.integer(module.get_submodule(path), keys, value)
    except TersorError as error:
        edits.rollback(mark)
        raise StructureError(
            f"the network is not of the class that was shrunk: {error}. Give a fresh instance of that class"
        ) from error
    except BaseException:
        edits.rollback(mark)
        raise


def drop(module: nn.Module, name: str, edits: Edits) -> None:
    """Puts a `Dropped` in the place of the submodule `name`. StructureError if there is none, or it is the whole."""
    path, _, own = name.rpartition(".")
    try:
        parent = module.get_submodule(path)
        known = parent._modules.get(own) is not None
    except AttributeError:
        known = False
    if not known:
        raise StructureError(f"there is no submodule {name!r} to drop")
    edits.child(parent, own, Dropped())


def _check_integers(module: nn.Module, wanted: Mapping[tuple[str, Keys], int]) -> None:
    """StructureError unless each integer exists and would shrink to 1 at least."""
    for (path, keys), value in wanted.items():
        try:
            found = integers(module.get_submodule(path)).get(keys)
        except AttributeError:
            found = None
        shown = ".".join(map(str, (path, *keys)))
        if found is None:
            raise StructureError(f"there is no integer {shown}")
        if not 1 <= value <= found:
            raise StructureError(f"{shown} is {found}; it cannot become {value}")


def _inside(name: str, blocks: Sequence[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def _runs(positions: Sequence[int]) -> list[int | list[int]]:
    """Ascending positions; a run of several is [first, behind the last]."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1][1] += 1
        else:
            runs.append([position, position + 1])
    return [first if end == first + 1 else [first, end] for first, end in runs]


def _positions(runs: Any, size: int, most: int) -> tuple[int, ...]:
    """The inverse of `_runs`. ValueError unless they are at most `most`, ascend within `size`, and leave some."""
    found: list[int] = []
    for run in runs:
        first, end = (run, run + 1) if isinstance(run, int) else run
        if not (found[-1] if found else -1) < _integer(first) < _integer(end) <= size:
            raise ValueError(f"positions {first} to {end} of {size}")
        if len(found) + end - first > most:
            raise ValueError(f"more than {_POSITIONS} positions")
        found.extend(range(first, end))
    if not 0 < len(found) < size:
        raise ValueError(f"{len(found)} of {size} positions removed")
    return tuple(found)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"expected an integer, got {value!r:.40}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"expected a text, got {value!r:.40}")
    return value


def _keys(value: Any) -> Keys:
    keys = tuple(value)
    if not keys or any(type(key) not in (int, str) for key in keys) or type(keys[0]) is not str:
        raise ValueError(f"expected attributes and indices, got {value!r:.40}")
    return keys
