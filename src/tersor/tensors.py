"""CompressedTensor: the one type that stages hand to each other, and that a .tsr file holds.

A small closed set of frozen dataclasses: `Dense`, `Uniform`, `Codebook`, `Binary`, `Ternary`. Each knows the
shape and dtype of the tensor it stands for, owns an optional sparsity mask, and gives the tensor back with
`dequantize()`.

Legend: O output channels (rows), N weights a row (see `layers.matrix_shape`), G groups a row, T codebooks,
K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.layers import matrix_shape


@dataclass(frozen=True)
class CompressedTensor:
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
            raise ValueError(f"mask must be bool of shape {tuple(self.shape)}, got {self.mask.dtype} {tuple(self.mask.shape)}")

    def dequantize(self) -> Tensor:
        """The tensor, of `shape` and `dtype`, contiguous, on the CPU."""
        values = self._values().to(self.dtype)
        if self.mask is None:
            return values
        return torch.where(self.mask, values, torch.zeros((), dtype=self.dtype))

    def _values(self) -> Tensor:
        """Values of all positions, of `shape`, in any float dtype; masked positions may hold anything."""
        raise NotImplementedError  # every subclass in this file defines it

    @property
    def numel(self) -> int:
        """Number of weights, pruned ones included."""
        return self.shape.numel()


@dataclass(frozen=True)
class Dense(CompressedTensor):
    """The values themselves: exact if `values.dtype == dtype`, else a low-precision float (fp16, bf16, fp8)."""

    kind: ClassVar[str] = "dense"

    values: Tensor  # shape `shape`, any dtype

    def _values(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class Uniform(CompressedTensor):
    """Integer codes on a uniform grid: w = scale * (q - zero).

    codes: int8 (bits <= 8) or int16, shape `shape`, in [-2^(bits-1), 2^(bits-1) - 1].
    scale: float32 (O, G); (1, 1) for one step a tensor. May be negative: the grid has one more level below
           zero than above it, and the sign of the step says which tail of the weights gets that level.
    zero:  int32 like `scale`, or None for a symmetric grid (zero = 0).
    group_size: weights of a row that share a step; N (the row's length) for one step a row, 0 for one step a
           tensor. The last group of a row may be shorter: G = ceil(N / group_size).
    """

    kind: ClassVar[str] = "uniform"

    bits: int
    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    group_size: int

    def _values(self) -> Tensor:
        rows, length = matrix_shape(self.shape)
        q = self.codes.reshape(rows, length).to(torch.float32)
        scale, zero = self.scale, self.zero
        if self.group_size not in (0, length):
            scale = scale.repeat_interleave(self.group_size, dim=1)[:, :length]
            zero = None if zero is None else zero.repeat_interleave(self.group_size, dim=1)[:, :length]
        if zero is not None:
            q = q - zero.to(torch.float32)
        return (q * scale).reshape(self.shape)


@dataclass(frozen=True)
class Codebook(CompressedTensor):
    """Weights that share K values (k-means clustering; Han et al. 2016, Deep Compression, section 3).

    codes:    uint8, shape `shape`, in [0, K).
    codebook: float32 (T, K), each row ascending. Rows of the weight are split into T runs of ceil(O / T) rows;
              run t uses codebook t. T = 1 is one codebook a layer.
    """

    kind: ClassVar[str] = "codebook"

    bits: int
    codes: Tensor
    codebook: Tensor

    def _values(self) -> Tensor:
        rows, length = matrix_shape(self.shape)
        tables = self.codebook.shape[0]
        codes = self.codes.reshape(rows, length).to(torch.int64)
        if tables == 1:
            return self.codebook[0][codes].reshape(self.shape)
        run = -(-rows // tables)
        table = torch.div(torch.arange(rows), run, rounding_mode="floor")
        return self.codebook[table[:, None], codes].reshape(self.shape)


@dataclass(frozen=True)
class Binary(CompressedTensor):
    """w = +scale or -scale (Rastegari et al. 2016, XNOR-Net, equation 6).

    signs: bool, shape `shape`, True for +scale.
    scale: float32 (O, 1), or (1, 1) for one scale a tensor.
    """

    kind: ClassVar[str] = "binary"

    signs: Tensor
    scale: Tensor

    def _values(self) -> Tensor:
        rows, length = matrix_shape(self.shape)
        signs = self.signs.reshape(rows, length)
        return torch.where(signs, self.scale, -self.scale).reshape(self.shape)


@dataclass(frozen=True)
class Ternary(CompressedTensor):
    """w = -scale, 0 or +scale (Li et al. 2016, Ternary Weight Networks).

    codes: int8, shape `shape`, in {-1, 0, 1}.
    scale: float32 (O, 1), or (1, 1) for one scale a tensor.
    """

    kind: ClassVar[str] = "ternary"

    codes: Tensor
    scale: Tensor

    def _values(self) -> Tensor:
        rows, length = matrix_shape(self.shape)
        return (self.codes.reshape(rows, length).to(torch.float32) * self.scale).reshape(self.shape)
