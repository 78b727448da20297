"""Residual blocks chosen by what the network loses without them, and dropped."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tersor.calibration.divergence import Reference, divergence, reference_outputs
from tersor.costs import count_macs
from tersor.errors import StructureError, UsageError
from tersor.pruning import PruneBlocks
from tersor.shrinking.removal import Origin
from tersor.shrinking.weights import Data
from tersor.structure.blocks import drop_blocks, droppable
from tersor.structure.edits import Edits
from tersor.structure.manifest import drop


@dataclass(frozen=True)
class Residual:
    """The blocks of a network that may go by some options. all: `droppable`. own: those of them that count."""

    all: tuple[str, ...]
    own: tuple[str, ...]


def residual(
    model: nn.Module, options: PruneBlocks, args: Sequence[Any], kwargs: Mapping[str, Any], but: Sequence[str] = ()
) -> Residual:
    """Blocks that hold no other one and are meant by `match`, `keep` and not by `but` (patterns of later rules).

    StructureError where the model does not run on the inputs.
    """
    every = droppable(model, tuple(args), kwargs)
    found = []
    for name in every:
        tensors = [f"{name}.{own}" for own, _ in model.get_submodule(name).named_parameters()]
        inner = any(other.startswith(f"{name}.") for other in every)
        if inner or _all(tensors, but) or not _all(tensors, options.match):
            continue
        if not any(fnmatchcase(tensor, pattern) for tensor in tensors for pattern in options.keep):
            found.append(name)
    return Residual(every, tuple(found))


def without_blocks(
    model: nn.Module,
    options: PruneBlocks,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    first: Residual,
    but: Sequence[str],
    at: Callable[[float], float],
    origin: Origin,
    data: Data,
) -> nn.Module:
    """A copy of `model`, which holds no masks, without as many blocks as are to go now.

    first: the blocks of the network before pruning began, of which shares are; origin: its costs.
    at: the share that is to be left in the end -> the share that is to be left now.
    Raises UsageError for names of no blocks, more blocks than there are, a target that cannot be met, and without the
    samples that the criterion needs; StructureError where no block may go.
    """
    _check(options, first)
    found = residual(model, options, args, kwargs, but)
    waiting = [name for name in options.names if name in found.all] if options.names else list(found.own)
    gone = len(options.names or first.own) - len(waiting)
    count = _wanted(options, len(first.own), at)
    target = at(options.macs or options.parameters or 1.0) * (origin.macs if options.macs else origin.parameters)

    def costs(smaller: nn.Module) -> float:
        return count_macs(smaller, args, kwargs) if options.macs else _parameters(smaller)

    def enough(smaller: nn.Module, chosen: int) -> bool:
        return costs(smaller) <= target if count is None else gone + chosen >= count

    chosen = _chosen(model, waiting, options, enough, data)
    smaller = drop_blocks(model, chosen, tuple(args), kwargs)
    if not enough(smaller, len(chosen)):
        raise UsageError(
            f"{options.name}: the target of {target:,.0f} {'multiply-accumulates' if options.macs else 'parameters'} "
            f"cannot be met; without {listed_names(chosen)} there are {costs(smaller):,.0f}"
        )
    return smaller


def listed_names(names: Sequence[str]) -> str:
    """How many, and which, for messages."""
    return f"{len(names)} blocks ({', '.join(names)})" if names else "any block"


def _check(options: PruneBlocks, first: Residual) -> None:
    for name in options.names:
        if name not in first.all:
            known = ", ".join(first.all) or "none"
            raise UsageError(f"{options.name}: {name!r} is no residual block that can go; these can: {known}")
        if any(name.startswith(f"{other}.") for other in options.names):
            raise UsageError(f"{options.name}: {name!r} is within another block that goes; name each block once")
    if not options.names and not first.own:
        raise StructureError(
            f"{options.name}: no residual block may go by match and keep; these could: {', '.join(first.all) or 'none'}"
        )
    if options.count is not None and options.count > len(first.own):
        raise UsageError(f"{options.name}: {options.count} blocks are to go, but only {listed_names(first.own)} may")


def _wanted(options: PruneBlocks, own: int, at: Callable[[float], float]) -> int | None:
    """How many blocks go now; None where costs decide."""
    if options.macs is not None or options.parameters is not None:
        return None
    total = len(options.names) or own
    count = len(options.names) or options.count or round((options.ratio or 0.0) * own)
    left = at(max(1 - count / total, 0.5 / total))  # shares of a schedule stay above 0
    return min(count, math.floor(total * (1 - left) + 0.5 + 1e-9))


def _chosen(
    model: nn.Module,
    waiting: list[str],
    options: PruneBlocks,
    enough: Callable[[nn.Module, int], bool],
    data: Data,
) -> list[str]:
    """The blocks among `waiting` that go, in the order of their choice; the model is as it was in the end.

    enough: (the network without those chosen, how many these are) -> whether no more must go.
    """
    by_outputs = not options.names and options.criterion == "divergence"
    reference = _reference(model, options, data) if by_outputs else None
    chosen: list[str] = []
    edits = Edits()
    try:
        while waiting and not enough(model, len(chosen)):
            name = waiting[0]
            if not options.names:
                worth = [_worth(model, each, options, reference, data) for each in waiting]
                name = waiting[worth.index(min(worth))]
            waiting = [each for each in waiting if each != name]
            drop(model, name, edits)
            chosen.append(name)
    finally:
        edits.rollback()
    return chosen


def _worth(model: nn.Module, name: str, options: PruneBlocks, reference: Reference | None, data: Data) -> float:
    """What is lost with a block, the higher the more it is worth keeping."""
    if reference is not None:
        edits = Edits()
        try:
            drop(model, name, edits)
            return divergence(reference, model, data.inputs(), seed=data.seed)
        finally:
            edits.rollback()
    if options.criterion == "random":
        generator = torch.Generator().manual_seed(options.seed ^ zlib.crc32(name.encode()))
        return float(torch.rand((), generator=generator))
    weights = [p.detach().abs().double() for p in model.get_submodule(name).parameters() if p.dim() > 1]
    return float(sum(weight.sum() for weight in weights)) / max(sum(weight.numel() for weight in weights), 1)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _reference(model: nn.Module, options: PruneBlocks, data: Data) -> Reference:
    if data.samples is None:
        raise UsageError(
            f"{options.name}: criterion 'divergence' needs calibration, batches of samples for the model; 'l1' does not"
        )
    return reference_outputs(model, data.inputs(), seed=data.seed)


def _all(tensors: Sequence[str], patterns: Sequence[str]) -> bool:
    return all(any(fnmatchcase(tensor, pattern) for pattern in patterns) for tensor in tensors)
