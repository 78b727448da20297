"""Scores to masks: which weights are kept at a density, in a tensor, in each row, or over many tensors at once.

Legend: O rows, N weights of a row (`layers.matrix_shape`); units are what a `patterns.Pattern` keeps together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersor.errors import UnsupportedTypeError, UsageError
from tersor.layers import Geometry, geometry
from tersor.matrices import NonFiniteError
from tersor.pruning.patterns import Pattern, from_neighbours, neighbours, parse_pattern, spread, unit_scores
from tersor.pruning.selection import Scores, largest, score_array


def mask_of(
    scores: Tensor, density: float | None, *, pattern: str = "weight", scope: str = "tensor", parts: int = 1
) -> Tensor:
    """Bool mask of the scores' shape on the CPU, True where kept.

    scores:  of a weight's shape, float, finite; the higher the more worth keeping.
    density: share of the units that is kept, exactly round(density * n) of n, by score and, among equals, by position.
             None for N:M patterns, which say it themselves.
    pattern: as `parse_pattern`. Blocks at the end of rows and columns may be smaller, and count as blocks. In N:M, a
             last group of fewer than M inputs keeps up to N of them: filled up with zeros, it obeys the pattern.
    scope:   what `density` is a share of: "tensor", or "channel" for the same number in each row.
    parts:   runs of equally many rows that are pruned on their own: 4 for the gates of an LSTM, 3 of a GRU.

    Rows and inputs are those of `Geometry`: of weights that are stored inputs first (transposed convolutions,
    embeddings), pass the transpose.
    Raises UsageError for options that contradict each other, and as `score_array`.
    """
    chosen = checked(density, pattern, scope)
    if scope == "global":
        raise UsageError('scope "global" compares the weights of several tensors; use tersor.prune or global_masks')
    shape = geometry(scores.shape)
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1 or shape.rows % parts:
        raise UsageError(
            f"parts={parts!r}: the {shape.rows} rows of a weight of shape {tuple(scores.shape)} cannot be cut into so "
            "many equal parts"
        )
    part = Geometry(shape.rows // parts, shape.columns, shape.kernel)
    values = torch.from_numpy(score_array(scores)).reshape(parts, part.rows, part.row_length)
    masks = [_mask(value, part, chosen, density, scope) for value in values]
    return torch.cat(masks).reshape(scores.shape)


@dataclass(frozen=True)
class GlobalMasks:
    """Masks of many tensors, from one threshold.

    masks:  bool, of the tensors' shapes, on the CPU.
    raised: for tensors that keep more units than their scores earn, because of the floor: how many more.
    """

    masks: dict[str, Tensor]
    raised: dict[str, int]


def global_masks(
    scores: Mapping[str, Tensor], density: float, *, pattern: str = "weight", floor: float = 0.0
) -> GlobalMasks:
    """Keeps round(density * n) of the n units of all tensors together: one threshold (Han et al. 2015 per layer;
    Frankle and Carbin 2019 over all layers). Ties go by the tensors' order, then by position.

    scores: as `mask_of`, by name; of one scale, so that tensors can be compared.
    floor:  share of each tensor's units that stays, whatever their scores, rounded up, and one at the least: a layer
            without weights cuts the network. It is taken from the others; where the floors alone exceed the density,
            exactly they are kept.
    Raises UsageError for N:M patterns, and names the tensor whose scores are not finite.
    """
    chosen = checked(density, pattern, "global")
    if isinstance(floor, bool) or not 0 <= floor <= 1:
        raise UsageError(f"floor must be a number from 0 to 1, got {floor!r}")
    flat: dict[str, Scores] = {}
    shapes: dict[str, torch.Size] = {}
    for name, value in scores.items():
        shape = geometry(value.shape)
        try:
            values = torch.from_numpy(score_array(value)).reshape(shape.rows, shape.row_length)
        except (NonFiniteError, UnsupportedTypeError) as error:
            raise type(error)(f"{name}: {error}") from error
        units = unit_scores(values, shape, chosen) if shape.elements else values
        flat[name], shapes[name] = units.numpy().reshape(1, -1), units.shape
    kept, raised = _threshold(flat, density, floor)
    masks = {}
    for name, value in scores.items():
        units_kept = torch.from_numpy(kept[name]).reshape(shapes[name])
        masks[name] = spread(units_kept, geometry(value.shape), chosen).reshape(value.shape).contiguous()
    return GlobalMasks(masks, raised)


def checked(density: float | None, pattern: str, scope: str) -> Pattern:
    """The pattern, parsed. UsageError where density, pattern and scope contradict each other."""
    chosen = parse_pattern(pattern)
    if chosen.kind == "n:m":
        if density is not None:
            raise UsageError(f"pattern {pattern} keeps {chosen.density:.4g} of the weights by itself; give no density")
        if scope != "tensor":
            raise UsageError(f'pattern {pattern} keeps as many weights in every group; leave scope at "tensor"')
        return chosen
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise UsageError(f"density must be a number above 0 up to 1, got {density!r}")
    if scope not in ("tensor", "channel", "global"):
        raise UsageError(f"scope must be one of tensor, channel, global, got {scope!r}")
    if scope == "channel" and not chosen.in_rows:
        raise UsageError(f'pattern {pattern} reaches over rows, which scope "channel" compares one by one')
    return chosen


def _mask(scores: Tensor, shape: Geometry, pattern: Pattern, density: float | None, scope: str) -> Tensor:
    """bool (O, N) of scores (O, N)."""
    if shape.elements == 0:
        return torch.zeros(scores.shape, dtype=torch.bool)
    if pattern.kind == "n:m":
        groups = neighbours(scores, shape, pattern.second)
        return from_neighbours(torch.from_numpy(_best_of_groups(groups.numpy(), pattern.first)), shape)
    assert density is not None
    units = unit_scores(scores, shape, pattern)
    rows = units.numpy() if scope == "channel" else units.numpy().reshape(1, -1)
    kept = largest(rows, round(density * rows.shape[1]))
    return spread(torch.from_numpy(kept).reshape(units.shape), shape, pattern)


def _best_of_groups(groups: Scores, count: int) -> np.ndarray:
    """bool, the `count` largest of each short row, ties by position."""
    order = np.argsort(-groups, axis=1, kind="stable")[:, :count]
    keep = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(keep, order, True, axis=1)
    return keep


def _threshold(flat: dict[str, Scores], density: float, floor: float) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Kept units, bool (1, n), and those that the floor added, by name; of scores (1, n)."""
    sizes = {name: values.shape[1] for name, values in flat.items()}
    total = sum(sizes.values())
    if total == 0:
        return {name: np.zeros((1, 0), np.bool_) for name in flat}, {}
    joined = np.concatenate(list(flat.values()), axis=1)
    count = round(density * total)
    held = {name: largest(v, _floor(sizes[name], floor)) for name, v in flat.items()}
    forced = np.concatenate(list(held.values()), axis=1)
    kept = forced.copy()
    rest = count - int(forced.sum())
    if rest > 0:
        free = np.flatnonzero(~forced[0])
        kept[0, free] = largest(np.ascontiguousarray(joined[:, free]), rest)[0]
    earned = largest(joined, count)
    out: dict[str, np.ndarray] = {}
    raised: dict[str, int] = {}
    begin = 0
    for name, size in sizes.items():
        out[name] = kept[:, begin : begin + size]
        more = int((held[name] & ~earned[:, begin : begin + size]).sum())
        if more:
            raised[name] = more
        begin += size
    return out, raised


def _floor(size: int, share: float) -> int:
    return min(size, max(1, int(np.ceil(share * size))))
