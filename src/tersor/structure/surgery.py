"""Physical removal: an ordinary module with smaller layers, checked against the masked network."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tersor.calibration.copying import copied
from tersor.calibration.guard import untouched
from tersor.errors import StructureError, TersorError, shortlist
from tersor.structure.carried import carry, manifest_of
from tersor.structure.constants import Failure, Search
from tersor.structure.cuts import Cuts, cut, selected_cuts, zero
from tersor.structure.edits import Edits, Keys
from tersor.structure.groups import Groups, Selection
from tersor.structure.manifest import Manifest
from tersor.structure.masked import masked_output
from tersor.structure.outputs import difference, tensors_of
from tersor.structure.trace import Trace


def shrink(
    model: nn.Module,
    selection: Selection,
    groups: Groups,
    trace: Trace,
    *,
    inplace: bool = False,
    tolerance: float | None = None,
) -> nn.Module:
    """`model` without the selected units: layers of the same classes, smaller.

    selection: units by group. inplace: changes `model` itself, else a copy (ties, hooks and flags as they were).
    tolerance: how far each output tensor may be from that of the masked network (the original with the units' positions
        set to zero), relative to its largest magnitude; None for 1e-4 in float32 (less in float64, more below).

    Parameters are new ones (make optimizers after it), with requires_grad and, in place, gradients cut alike.
    Attributes of torch's own modules follow the shapes; integers of other modules (`num_heads`, `split_size`, also in
    configs) are changed only where the network would not work else. The result carries a manifest: `state_dict()` and
    `.tsr` files know how to rebuild it from its class.

    The check runs in evaluation mode on the trace's example inputs, and, where the network takes them and no
    normalisation over channels sees what is removed, on a batch that is larger by one.

    Raises UsageError for unknown groups, units out of range, a selection of all units, or a model that cannot be copied
    (shrink it with `inplace`); StructureError, naming group,
    module and what failed, if the result is not the masked network. `model` is unchanged then, also with `inplace`.
    """
    cuts = selected_cuts(model, selection, groups)
    target = model if inplace else copied(model)
    if not cuts:
        return target
    edits = Edits()
    try:
        found = _performed(target, selection, groups, trace, cuts, edits, tolerance)
        carry(target, manifest_of(model).then(Manifest((), cuts, found)), edits)
    except BaseException:
        edits.rollback()
        raise
    return target


@dataclass(frozen=True)
class Shrunk:
    """model: smaller. skipped: group -> why it was left alone."""

    model: nn.Module
    skipped: Mapping[str, StructureError]


def shrink_where_possible(
    model: nn.Module,
    selection: Selection,
    groups: Groups,
    trace: Trace,
    *,
    inplace: bool = False,
    tolerance: float | None = None,
) -> Shrunk:
    """As `shrink`, but groups that cannot be removed are left alone.

    Where the whole selection fails, groups are tried one kind (names that differ by numbers) after the other, the first
    of each by itself: if it fails, all of its kind stay, else those that fail are found by halving.
    Raises UsageError as `shrink` does.
    """
    selected_cuts(model, selection, groups)
    target = model if inplace else copied(model)
    names = [name for name, units in selection.items() if len(units)]
    skipped: dict[str, StructureError] = {}

    def failure(chosen: list[str]) -> StructureError | None:
        try:
            _tried(target, {name: selection[name] for name in chosen}, groups, trace, tolerance)
        except StructureError as error:
            return error
        return None

    def accepted(base: list[str], more: list[str]) -> list[str]:
        """Those of `more` that can go when `base` goes."""
        error = failure(base + more)
        if error is None:
            return more
        if len(more) == 1:
            skipped[more[0]] = error
            return []
        half = len(more) // 2
        first = accepted(base, more[:half])
        return first + accepted(base + first, more[half:])

    good = names
    if names and failure(names) is not None:
        good = []
        for alike in _kinds(names):
            error = failure([*good, alike[0]])
            if error is None:
                good += [alike[0], *(accepted([*good, alike[0]], alike[1:]) if alike[1:] else [])]
            else:
                skipped.update(dict.fromkeys(alike, error))
    shrink(target, {name: selection[name] for name in good}, groups, trace, inplace=True, tolerance=tolerance)
    return Shrunk(target, skipped)


def _kinds(names: Sequence[str]) -> list[list[str]]:
    """Names that differ only by numbers, together."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    return list(found.values())


def _tried(model: nn.Module, selection: Selection, groups: Groups, trace: Trace, tolerance: float | None) -> None:
    """Raises what `shrink` would; `model` is as it was."""
    edits = Edits()
    try:
        _performed(model, selection, groups, trace, selected_cuts(model, selection, groups), edits, tolerance)
    finally:
        edits.rollback()


def _performed(
    target: nn.Module,
    selection: Selection,
    groups: Groups,
    trace: Trace,
    cuts: Cuts,
    edits: Edits,
    tolerance: float | None,
) -> Mapping[tuple[str, Keys], int]:
    """Cuts, finds the integers that must follow, and returns them. StructureError as `shrink`."""
    cases = [_Case(trace.args, trace.kwargs, masked_output(trace, groups, selection, trace.args, trace.kwargs))]
    if not any(group.normalised for group in groups.groups if len(selection.get(group.name, ()))):
        cases += _larger_case(target, cuts, cases[0])
    try:
        cut(target, cuts, edits)
    except StructureError as error:
        raise StructureError(f"{_groups_named(selection)}: {error}") from error
    names = {id(module): name for name, module in target.named_modules()}

    def attempt() -> Failure | None:
        progress = 0
        for case in cases:
            found = _failure(target, case, names, tolerance)
            if isinstance(found, Failure):
                return replace(found, progress=found.progress + progress)
            progress += found
        return None

    search = Search(target, cuts, selection, groups, edits, attempt)
    with untouched(target, 0):  # after the cut: flags and buffers are put back as they are now
        failure = search.run()
    if failure is not None:
        raise StructureError(f"{_groups_named(selection)}: {_described(failure, target)}") from failure.error
    return search.found


@dataclass(frozen=True)
class _Case:
    """Arguments, and what the masked network returns for them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


def _larger_case(model: nn.Module, cuts: Cuts, case: _Case) -> list[_Case]:
    """The same with one more sample, run on the model with zeros; none where the model does not take that.

    Samples are the first dimension of all tensors whose first dimension is as large as that of the first one.
    """
    leaves, spec = pytree.tree_flatten((case.args, dict(case.kwargs)))
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    if not sizes or not sizes[0]:
        return []
    larger = [
        torch.cat([leaf, leaf[:1]]) if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == sizes[0] else leaf
        for leaf in leaves
    ]
    args, kwargs = pytree.tree_unflatten(larger, spec)
    edits = Edits()
    try:
        zero(model, cuts, edits)
        with untouched(model, 0), torch.no_grad():
            return [_Case(args, kwargs, model(*args, **kwargs))]
    except Exception:  # noqa: BLE001 - whatever a network raises that has a fixed batch size
        return []
    finally:
        edits.rollback()


class _Counter(TorchDispatchMode):
    """Counts operations, and knows the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.last = "nothing"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last = str(func)
        result = func(*args, **(kwargs or {}))
        self.count += 1
        return result


def _failure(target: nn.Module, case: _Case, names: Mapping[int, str], tolerance: float | None) -> Failure | int:
    """How the network does not give what it should, to the tolerance; else how many operations it ran."""
    counter = _Counter()
    try:
        torch.manual_seed(0)
        with torch.no_grad(), counter:
            output = target(*case.args, **case.kwargs)
    except TersorError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the network's own code raises
        return Failure(_running(error, names), counter.count, f"{counter.last}: {error}", error)
    reason = difference(tensors_of(output), tensors_of(case.output), tolerance)
    return counter.count if reason is None else Failure((), counter.count, reason, None)


def _running(error: Exception, names: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the modules whose code was running when `error` was raised, the innermost first."""
    found: dict[str, None] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            found[names[id(owner)]] = None
    return tuple(reversed(found))


def _described(failure: Failure, target: nn.Module) -> str:
    if failure.error is None:
        return f"the shrunk network does not compute what the masked one does: {failure.reason}"
    name = failure.modules[0] if failure.modules else ""
    kind = type(target.get_submodule(name)).__name__
    where = f"module {name!r} ({kind})" if name else f"the network itself ({kind})"
    return f"the shrunk network fails in {where} at {failure.reason}"


def _groups_named(selection: Selection) -> str:
    chosen = [name for name, units in selection.items() if len(units)]
    return f"group{'s' if len(chosen) > 1 else ''} {shortlist(map(repr, chosen))}"
