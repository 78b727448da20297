"""Which weights are kept or pruned together, by name: single ones, N of M neighbours, blocks, rows, columns, kernels.

Legend: O rows, I columns (inputs), K kernel positions, all of `layers.Geometry`; N = I K weights of a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import UsageError
from tersor.layers import Geometry

_COUNTS = re.compile(r"([1-9][0-9]{0,5})([:x])([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Pattern:
    """A kind of unit.

    kind: "weight", "n:m" (`first` kept of each `second` neighbouring inputs), "block" (`first` rows x `second`
          neighbouring weights of a row), "row" (an output: neuron, filter), "column" (an input of all rows) or
          "kernel" (what one filter does to one input channel).
    """

    kind: str
    first: int = 1
    second: int = 1

    @property
    def density(self) -> float | None:
        """Share of the weights that "n:m" keeps; None for the other kinds."""
        return self.first / self.second if self.kind == "n:m" else None

    @property
    def in_rows(self) -> bool:
        """Whether units can be compared within a row of weights."""
        return self.kind in ("weight", "kernel") or (self.kind == "block" and self.first == 1)


def parse_pattern(text: object) -> Pattern:
    """ "weight", "row", "column", "kernel", "2:4" (any N:M with N < M) or "4x1" (any rows x columns).

    UsageError for anything else.
    """
    if text in ("weight", "row", "column", "kernel"):
        return Pattern(str(text))
    match = _COUNTS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UsageError(
            "pattern must be weight, row, column, kernel, N:M such as 2:4, or a block of ROWSxCOLUMNS such as 1x8, "
            f"got {text!r}"
        )
    first, second = int(match[1]), int(match[3])
    if match[2] == "x":
        return Pattern("block", first, second)
    if first >= second:
        raise UsageError(f"pattern {text}: of {second} weights, fewer than {second} can be kept, got {first}")
    return Pattern("n:m", first, second)


def unit_scores(scores: Tensor, geometry: Geometry, pattern: Pattern) -> Tensor:
    """Scores of the units, a matrix: the mean of their weights' (which ranks units of one size as the sum does).

    scores: (O, N), float. The result is (O, N) for "weight", (O, I) for "kernel", (1, O) for "row", (1, I) for
    "column", and (ceil O / rows, ceil N / columns) for blocks, those at the end smaller. Not for "n:m".
    """
    rows, columns, kernel = geometry
    if pattern.kind == "weight":
        return scores
    if pattern.kind == "row":
        return scores.mean(1)[None]
    if pattern.kind == "column":
        return scores.reshape(rows, columns, kernel).mean((0, 2))[None]
    if pattern.kind == "kernel":
        return scores.reshape(rows, columns, kernel).mean(2)
    assert pattern.kind == "block"
    size = (pattern.first, pattern.second)
    total = _blocks(scores, size).sum((1, 3))
    return total / _blocks(torch.ones_like(scores), size).sum((1, 3))


def spread(kept: Tensor, geometry: Geometry, pattern: Pattern) -> Tensor:
    """bool (O, N): the weights of the units that are kept; `kept` is bool of the shape that `unit_scores` gives."""
    rows, columns, kernel = geometry
    if pattern.kind == "weight":
        return kept
    if pattern.kind == "row":
        return kept[0, :, None].expand(rows, columns * kernel)
    if pattern.kind == "column":
        return kept[0, None, :, None].expand(rows, columns, kernel).reshape(rows, -1)
    if pattern.kind == "kernel":
        return kept[..., None].expand(rows, columns, kernel).reshape(rows, -1)
    whole = kept.repeat_interleave(pattern.first, 0).repeat_interleave(pattern.second, 1)
    return whole[:rows, : columns * kernel]


def neighbours(scores: Tensor, geometry: Geometry, size: int) -> Tensor:
    """Groups of `size` neighbouring inputs: (O K ceil(I / size), size), filled up with -inf where inputs end.

    The inputs of a kernel position are neighbours of each other, as hardware for N:M sparsity reads convolutions.
    """
    rows, columns, kernel = geometry
    by_input = scores.reshape(rows, columns, kernel).transpose(1, 2)
    return F.pad(by_input, (0, -columns % size), value=-torch.inf).reshape(-1, size)


def from_neighbours(kept: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `neighbours` for masks: bool (O, N)."""
    rows, columns, kernel = geometry
    by_input = kept.reshape(rows, kernel, -1)[..., :columns]
    return by_input.transpose(1, 2).reshape(rows, columns * kernel)


def _blocks(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(ceil O / r, r, ceil N / c, c) of (O, N), filled up with zeros."""
    rows, length = values.shape
    padded = F.pad(values, (0, -length % size[1], 0, -rows % size[0]))
    return padded.reshape(padded.shape[0] // size[0], size[0], padded.shape[1] // size[1], size[1])
