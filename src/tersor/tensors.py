"""CompressedTensor: the one type that stages hand to each other, and that a .tsr file holds.

A small closed set of frozen dataclasses: `Dense`, `Uniform`, `Codebook`, `Binary`, `Ternary`; and two that hold one of
those: `Patched`, `SignedZeros`. Each knows the shape and dtype of the tensor it stands for, owns an optional sparsity
mask, and gives the tensor back with `dequantize()`.

Legend: O output channels (rows), N weights a row (see `layers.matrix_shape`), G groups a row, T codebooks,
K centroids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.centring import wrapped, zero_levels
from tersor.layers import matrix_shape

_BLOCK = 1 << 20


@dataclass(frozen=True)
class CompressedTensor(ABC):
    """What all representations share. Not instantiated itself.

    shape: of the tensor that is represented.
    dtype: of the tensor that `dequantize` returns.
    mask:  bool tensor of `shape`, True where a weight is kept; None where nothing is pruned. Pruned positions
           dequantize to zero, and whatever `codes` hold there is ignored and not stored.
    """

    kind: ClassVar[str]

    shape: torch.Size
    dtype: torch.dtype
    mask: Tensor | None

    def __post_init__(self) -> None:
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape != self.shape):
            raise ValueError(
                f"mask must be bool of shape {tuple(self.shape)}, "
                f"got {self.mask.dtype} of shape {tuple(self.mask.shape)}"
            )

    def dequantize(self) -> Tensor:
        """The tensor, of `shape` and `dtype`, contiguous, on the CPU.

        Values beyond the range of the dtype saturate. Takes little memory beside the result: it is computed
        in blocks of about a million weights.
        """
        rows, length = matrix_shape(self.shape)
        result = torch.empty((rows, length), dtype=self.dtype)
        codes = self.per_weight.reshape(rows, length)
        mask = None if self.mask is None else self.mask.reshape(rows, length)
        for row, column in _blocks(rows, length):
            kept = None if mask is None else mask[row, column]
            result[row, column] = self.dequantize_block(codes[row, column], kept, row, column)
        return result.reshape(self.shape)

    def dequantize_block(self, codes: Tensor, mask: Tensor | None, row: slice, column: slice) -> Tensor:
        """A block of the (O, N) matrix that `dequantize` gives.

        codes: what `per_weight` holds of the block, (rows, columns). mask: bool alike, or None.
        row, column: where the block lies, both with start and stop: whole rows, or part of one.
        Nothing of `self` is used but `shape`, `dtype` and what weights share (steps, centroids), so that the codes of
        a whole tensor need never be in memory.
        """
        largest = min(torch.finfo(self.dtype).max, torch.finfo(torch.float32).max)
        values = self._values(codes, row, column).clamp_(-largest, largest)
        if mask is not None:
            values.masked_fill_(~mask, 0.0)
        return values.to(self.dtype)

    @property
    @abstractmethod
    def per_weight(self) -> Tensor:
        """What is stored of each weight, of shape `shape`: its value, code or sign."""

    @abstractmethod
    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        """Values of the block (`row`, `column`): a new float32 tensor, anything at masked positions."""

    @property
    def numel(self) -> int:
        """Number of weights, pruned ones included."""
        return self.shape.numel()


@dataclass(frozen=True)
class Dense(CompressedTensor):
    """The values themselves: exact if `values.dtype == dtype`, else in a dtype that takes less room.

    That is a narrower float (fp16, bf16, fp8), or an integer: the numbers of a float tensor that are whole.
    """

    kind: ClassVar[str] = "dense"

    values: Tensor  # shape `shape`, any dtype

    def dequantize(self) -> Tensor:
        """As in the base class; an exact and unmasked one returns `values` itself, not a copy."""
        if self.values.dtype == self.dtype and self.mask is None:
            return self.values
        return super().dequantize()

    def dequantize_block(self, codes: Tensor, mask: Tensor | None, row: slice, column: slice) -> Tensor:
        """As in the base class; exact values and integers are not taken for float32 in between."""
        if codes.dtype != self.dtype and codes.dtype.is_floating_point:
            return super().dequantize_block(codes, mask, row, column)
        return _cleared(codes.to(self.dtype, copy=True, memory_format=torch.contiguous_format), mask)

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.values

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        return codes.to(torch.float32, copy=True)


@dataclass(frozen=True)
class Uniform(CompressedTensor):
    """Integer codes on a uniform grid: w = scale * (q - zero), or w = scale * level + offset.

    codes: int8 (bits <= 8) or int16, shape `shape`, in [-2^(bits-1), 2^(bits-1) - 1].
    scale: float32 (O, G); (1, 1) for one step a tensor. May be negative: the grid has one more level below
           zero than above it, and the sign of the step says which tail of the weights gets that level.
    zero:  int32 like `scale`, or None for a symmetric grid (zero = 0).
    offset: float32 like `scale`: the value at the bottom of the range, from which levels 0 to 2^bits - 1 count; or
           None. Excludes `zero`. Codes are levels less the level of zero (`centring.zero_levels`), modulo 2^bits. The
           product and the sum are rounded to float32 one after the other (no fused operation), as the formats do that
           store such grids.
    group_size: weights of a row that share a step; N (the row's length) for one step a row, 0 for one step a
           tensor. The last group of a row may be shorter: G = ceil(N / group_size).
    signed_zero: codes are one's complements, so that each sign of zero has one: a code q < 0 stands for -(~q * scale),
           ~q = -q - 1, which is -0.0 for -1. Excludes `zero` and `offset`.
    high, low: bfloat16 like `scale`: the extremes of which `scale` and `offset` are made (see `ends.steps_of_ends`; no
           `low` without `offset`), or None where that is not known. They do not change the weights; a file stores them
           in place of the steps.
    trellis: states of a trellis (4 or 8) through which the codes of every row are a path in C order, pruned weights
           left out (see `coding/trellis.py`); 1 for none. It does not change the weights; a file stores half as large
           indices in place of the codes, and knows from the states which codes can come.
    base, multipliers: bfloat16 (1, 1) and int8 (O, 1), of which `scale` is made (see `octaves.steps_of_multipliers`);
           `base` alone where one step serves the tensor. A file stores them in place of the steps. None where that is
           not known.
    A grid with `trellis` or `base` is symmetric, with one step a row or a tensor.
    """

    kind: ClassVar[str] = "uniform"

    bits: int
    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    group_size: int
    offset: Tensor | None = None
    signed_zero: bool = False
    high: Tensor | None = None
    low: Tensor | None = None
    trellis: int = 1
    base: Tensor | None = None
    multipliers: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        starts = (self.zero is not None) + (self.offset is not None) + self.signed_zero
        if starts > 1:
            raise ValueError("a grid has a zero point, an offset or signed zeros, not two of them")
        if self.trellis not in (1, 4, 8):
            raise ValueError(f"a trellis has 1, 4 or 8 states, got {self.trellis!r}")
        if self.trellis > 1 or self.base is not None:
            by_row_or_tensor = self.group_size in (0, matrix_shape(self.shape)[1])
            if starts or self.high is not None or not by_row_or_tensor:
                raise ValueError("a grid with a trellis or a base is symmetric, with one step a row or a tensor")
        if (self.multipliers is not None) != (self.base is not None and self.group_size != 0):
            raise ValueError("multipliers belong to a base with one step a row")

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.codes

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        if self.signed_zero:
            magnitudes = torch.where(codes < 0, ~codes, codes).to(torch.float32)
            magnitudes *= self._of_each_weight(self.scale, row, column)
            return torch.where(codes < 0, -magnitudes, magnitudes)
        if self.offset is not None:
            return self._above_offset(codes, self.offset, row, column)
        q = codes.to(torch.float32)
        if self.zero is not None:
            q -= self._of_each_weight(self.zero, row, column).to(torch.float32)
        q *= self._of_each_weight(self.scale, row, column)
        return q

    def _above_offset(self, codes: Tensor, offset: Tensor, row: slice, column: slice) -> Tensor:
        scales, offsets = (steps if self.group_size == 0 else steps[row] for steps in (self.scale, offset))
        half = 1 << self.bits - 1
        zeros = (zero_levels(scales, offsets, self.bits) - half).to(codes.dtype)
        levels = wrapped(codes + self._spread(zeros, column), self.bits).to(torch.float32)
        levels += half
        levels *= self._spread(scales, column)
        levels += self._spread(offsets, column)
        return levels

    def _of_each_weight(self, steps: Tensor, row: slice, column: slice) -> Tensor:
        """The entries of `scale` or `zero` for the weights of a block, in a shape that broadcasts to it."""
        return steps if self.group_size == 0 else self._spread(steps[row], column)

    def _spread(self, steps: Tensor, column: slice) -> Tensor:
        """Entries (rows, G) or (1, 1) for the columns of a block."""
        if steps.shape[1] == 1:
            return steps
        return steps.index_select(1, torch.arange(column.start, column.stop) // self.group_size)


@dataclass(frozen=True)
class Codebook(CompressedTensor):
    """Weights that share K values (k-means clustering; Han et al. 2016, Deep Compression, section 3).

    codes:    uint8, shape `shape`, in [0, K), K <= 2^bits.
    codebook: (T, K), each row ascending, float32 or of the tensor's own dtype, complex numbers excepted; then its
              values come back bit by bit (NaN and infinity, integers). Rows of the weight are split into T runs of
              ceil(O / T) rows; run t uses codebook t. T = 1 is one codebook a layer.
    """

    kind: ClassVar[str] = "codebook"

    bits: int
    codes: Tensor
    codebook: Tensor

    def dequantize_block(self, codes: Tensor, mask: Tensor | None, row: slice, column: slice) -> Tensor:
        """As in the base class; a codebook of the tensor's own dtype gives its values as they are."""
        if self.codebook.dtype != self.dtype:
            return super().dequantize_block(codes, mask, row, column)
        words = self._look_up(self.codebook.view(word_dtype(self.dtype)), codes, row)
        return _cleared(words.view(self.dtype), mask)

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.codes

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        return self._look_up(self.codebook, codes, row)

    def _look_up(self, book: Tensor, codes: Tensor, row: slice) -> Tensor:
        """Entries of `book` (T, K) for the codes of a block."""
        tables, centroids = book.shape
        places = codes.to(torch.int32)
        if tables > 1:
            run = -(-matrix_shape(self.shape)[0] // tables)
            first = torch.arange(row.start, row.stop, dtype=torch.int32) // run * centroids
            places += first[:, None]
        return book.reshape(-1).index_select(0, places.reshape(-1)).reshape(places.shape)


@dataclass(frozen=True)
class Binary(CompressedTensor):
    """w = +scale or -scale (Rastegari et al. 2016, XNOR-Net, equation 6).

    signs: bool, shape `shape`, True for +scale.
    scale: float32 (O, 1), or (1, 1) for one scale a tensor.
    """

    kind: ClassVar[str] = "binary"

    signs: Tensor
    scale: Tensor

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.signs

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        scale = _of_rows(self.scale, row)
        return torch.where(codes, scale, -scale)


@dataclass(frozen=True)
class Ternary(CompressedTensor):
    """w = -scale, 0 or +scale (Li et al. 2016, Ternary Weight Networks).

    codes: int8, shape `shape`, in {-1, 0, 1}.
    scale: float32 (O, 1), or (1, 1) for one scale a tensor.
    """

    kind: ClassVar[str] = "ternary"

    codes: Tensor
    scale: Tensor

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.codes

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        return codes.to(torch.float32).mul_(_of_rows(self.scale, row))


@dataclass(frozen=True)
class Patched(CompressedTensor):
    """Another representation, with exact values where it does not hold. `mask` is that of `base`.

    base:   of the same shape and dtype; whatever it gives for the patched runs is ignored.
    run:    weights of a run; divides the number of weights. Run p is the weights p * run to (p + 1) * run in C order.
    places: int64 (P,), ascending: the runs that are patched, P > 0.
    values: (P, run) of `dtype`: their weights.
    """

    kind: ClassVar[str] = "patched"

    base: CompressedTensor
    run: int
    places: Tensor
    values: Tensor

    def dequantize_block(self, codes: Tensor, mask: Tensor | None, row: slice, column: slice) -> Tensor:
        """As in the base class; patched weights are exact to the bit."""
        result = self.base.dequantize_block(codes, mask, row, column).contiguous()
        begin = row.start * matrix_shape(self.shape)[1] + column.start
        first, last = torch.searchsorted(
            self.places, torch.tensor([begin // self.run, -(-(begin + result.numel()) // self.run)])
        ).tolist()
        weights = (self.places[first:last, None] * self.run + torch.arange(self.run) - begin).reshape(-1)
        inside = (weights >= 0) & (weights < result.numel())
        words = word_dtype(self.dtype)
        result.view(words).reshape(-1)[weights[inside]] = self.values[first:last].view(words).reshape(-1)[inside]
        return result

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.base.per_weight

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        return self.dequantize_block(codes, None, row, column).to(torch.float32)


@dataclass(frozen=True)
class SignedZeros(CompressedTensor):
    """A pruned representation whose pruned weights have signs: a mask that multiplies a negative weight leaves -0.0.

    base:     of the same shape, dtype (a real float) and mask.
    negative: bool (O, N), True where a pruned weight is -0.0; ignored where weights are kept.
    """

    kind: ClassVar[str] = "signed zeros"

    base: CompressedTensor
    negative: Tensor

    def dequantize_block(self, codes: Tensor, mask: Tensor | None, row: slice, column: slice) -> Tensor:
        """As in the base class, pruned weights +0.0 or -0.0."""
        result = self.base.dequantize_block(codes, mask, row, column).contiguous()
        if mask is not None:
            signs = (self.negative[row, column] & ~mask).view(torch.uint8) << 7
            result.view(torch.uint8).reshape(-1, self.dtype.itemsize)[:, -1] |= signs.reshape(-1)
        return result

    @property
    def per_weight(self) -> Tensor:
        """See the base class."""
        return self.base.per_weight

    def _values(self, codes: Tensor, row: slice, column: slice) -> Tensor:
        return self.base._values(codes, row, column)


def word_dtype(dtype: torch.dtype) -> torch.dtype:
    """The integer dtype of the size of `dtype` (1, 2, 4 or 8 bytes) that torch can index and compare."""
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def _cleared(values: Tensor, mask: Tensor | None) -> Tensor:
    """Contiguous `values`, zeroed in place where `mask` is False."""
    if mask is not None:
        # A string of zero bytes is zero in every dtype, those included that torch cannot compute with.
        octets = values.reshape(-1).view(torch.uint8).view(values.numel(), values.element_size())
        octets.masked_fill_(~mask.reshape(-1, 1), 0)
    return values


def _of_rows(scale: Tensor, row: slice) -> Tensor:
    """The scales (rows or 1, 1) that rows `row` use."""
    return scale if scale.shape[0] == 1 else scale[row]


def _blocks(rows: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Slices (rows, columns) that cover an (O, N) matrix: whole rows, or parts of one where rows are long."""
    if length > _BLOCK:
        for row in range(rows):
            for start in range(0, length, _BLOCK):
                yield slice(row, row + 1), slice(start, min(start + _BLOCK, length))
    elif length:
        step = _BLOCK // length
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows)), slice(0, length)
