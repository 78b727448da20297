"""What values a weight may take: the small protocol that error feedback rounds to.

Legend: G groups, R rows of a group, N weights of a row, T codebooks, K centroids.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tersor.calibration.layout import Layout
from tersor.errors import UsageError
from tersor.layers import matrix_shape
from tersor.tensors import Binary, Codebook, CompressedTensor, Ternary, Uniform


class Grid(Protocol):
    """A scalar quantizer that may differ from weight to weight."""

    def round(self, values: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """(codes int32, what they stand for float64), both (G, R), nearest to `values` float64 (G, R) of a column."""
        ...


@dataclass(frozen=True)
class UniformGrid:
    """scale * (q - zero) + offset with q in [low, high].

    scale:  float64 (G, R, N) (or expanded to it), not zero; any sign.
    zero:   like scale, whole numbers. offset: like scale.
    """

    scale: Tensor
    zero: Tensor
    offset: Tensor
    low: int
    high: int

    def round(self, values: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """As `Grid`."""
        scale, zero, offset = self.scale[..., column], self.zero[..., column], self.offset[..., column]
        codes = ((values - offset) / scale + zero).round_().clamp_(self.low, self.high)
        return codes.to(torch.int32), scale * (codes - zero) + offset


@dataclass(frozen=True)
class LevelGrid:
    """One of K values, q its rank.

    levels: float64 (T, K), ascending. table: int64 (G, R, N) in [0, T), which row of `levels` a weight uses.
    """

    levels: Tensor
    table: Tensor

    def round(self, values: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """As `Grid`; halfway between two values the smaller one."""
        levels = self.levels[self.table[..., column]]
        middles = (levels[..., 1:] + levels[..., :-1]) / 2
        codes = torch.searchsorted(middles.contiguous(), values[..., None].contiguous())
        return codes[..., 0].to(torch.int32), levels.gather(-1, codes)[..., 0]


@dataclass(frozen=True)
class MaskedGrid:
    """`grid` where a weight is kept, zero (code 0) where it is pruned. mask: bool (G, R, N), True where kept."""

    grid: Grid
    mask: Tensor

    def round(self, values: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """As `Grid`."""
        codes, rounded = self.grid.round(values, column)
        kept = self.mask[..., column]
        return codes * kept, rounded * kept


def grid_of(fitted: CompressedTensor, layout: Layout) -> Grid:
    """The grid of a fitted weight: its steps or levels stay, codes are to be found.

    Raises UsageError for representations that are no scalar grid.
    """
    grid = _unmasked(fitted, layout)
    return grid if fitted.mask is None else MaskedGrid(grid, layout.matrices(fitted.mask))


def with_codes(fitted: CompressedTensor, matrices: Tensor, layout: Layout) -> CompressedTensor:
    """`fitted` with the codes int32 (G, R, N) in place of its own."""
    codes = layout.weight(matrices, fitted.shape).contiguous()
    if isinstance(fitted, Uniform):
        return _replaced(fitted, codes=codes.to(fitted.codes.dtype))
    if isinstance(fitted, Codebook):
        return _replaced(fitted, codes=codes.to(torch.uint8))
    if isinstance(fitted, Ternary):
        # Ranks count from 0; pruned weights keep the code 0, which stands for zero.
        ternary = codes - 1 if fitted.mask is None else torch.where(fitted.mask, codes - 1, 0)
        return _replaced(fitted, codes=ternary.to(torch.int8))
    assert isinstance(fitted, Binary)
    return _replaced(fitted, signs=codes > 0)


def _unmasked(fitted: CompressedTensor, layout: Layout) -> Grid:
    rows, length = matrix_shape(fitted.shape)
    row_of = torch.arange(rows)[:, None]
    if isinstance(fitted, Uniform):
        low, high = -(1 << fitted.bits - 1), (1 << fitted.bits - 1) - 1
        zero = torch.zeros_like(fitted.scale) if fitted.zero is None else fitted.zero
        offset = torch.zeros_like(fitted.scale) if fitted.offset is None else fitted.offset
        if fitted.offset is not None:
            zero = torch.full_like(fitted.scale, low)
        size = fitted.group_size or length
        group = torch.zeros(length, dtype=torch.int64) if fitted.group_size == 0 else torch.arange(length) // size

        def each(parameter: Tensor) -> Tensor:
            values = parameter.double()
            return _of_weights(values[:, group] if values.shape[1] > 1 else values, fitted, layout)

        return UniformGrid(each(fitted.scale), each(zero), each(offset), low, high)
    if isinstance(fitted, Codebook):
        run = -(-rows // fitted.codebook.shape[0])
        levels, table = fitted.codebook.double(), row_of // run
    elif isinstance(fitted, (Binary, Ternary)):
        scale = fitted.scale.double()
        parts = [-scale, scale] if isinstance(fitted, Binary) else [-scale, torch.zeros_like(scale), scale]
        levels, table = torch.cat(parts, 1), row_of if scale.shape[0] > 1 else torch.zeros_like(row_of)
    else:
        raise UsageError(f"error feedback needs a scalar grid, got {type(fitted).__name__}")
    return LevelGrid(levels, _of_weights(table, fitted, layout))


def _of_weights(parameter: Tensor, fitted: CompressedTensor, layout: Layout) -> Tensor:
    """A parameter of storage rows, (O, N), (O, 1) or (1, 1), for each weight: (G, R, N), expanded where it can be."""
    rows, length = matrix_shape(fitted.shape)
    if layout.transposed or parameter.shape[1] > 1:
        return layout.matrices(parameter.expand(rows, length).reshape(fitted.shape))
    return parameter.expand(rows, 1).reshape(layout.groups, -1, 1).expand(layout.shape(fitted.shape))


def _replaced(fitted: CompressedTensor, **fields: Tensor) -> CompressedTensor:
    return dataclasses.replace(fitted, **fields)  # type: ignore[arg-type]
