"""Quantize: integer codes on a uniform grid whose step minimises the squared error.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core
from tersor.errors import UsageError
from tersor.matrices import float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask
from tersor.tensors import Uniform

GRANULARITIES = ("channel", "tensor", "group")


@dataclass(frozen=True)
class Quantize(RepresentationConfig):
    """w = scale * (q - zero), q of `bits` bits (Jacob et al. 2018, equation 1); zero = 0 if symmetric.

    bits:        1 to 16.
    symmetric:   no zero point. One bit is then the grid {-1, 0}: legal, but `Binarize` is what one wants.
    granularity: one step per output channel, per tensor, or per `group_size` weights of a row.
    group_size:  at least 1; given exactly with granularity "group".
    """

    name: ClassVar[str] = "uniform"

    bits: int = 8
    symmetric: bool = True
    granularity: str = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        self.check_integer("bits", 1, 16)
        self.check_flag("symmetric")
        self.check_choice("granularity", GRANULARITIES)
        if self.granularity == "group":
            self.check_integer("group_size", 1, 2**31 - 1)
        elif self.group_size is not None:
            raise UsageError(
                f"{self.name}: group_size={self.group_size!r} needs granularity='group', got {self.granularity!r}"
            )

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> Uniform:
        """The `Uniform` whose steps minimise the squared error of the kept weights. Raises as `float_matrix`.

        Steps have 8 significant bits (they are bfloat16 numbers) up to 8 bits. Measured on rows of 4096 normal
        weights that adds less than 0.1 % to the squared error up to 7 bits and 0.3 % at 8 bits, where a third
        byte a step would cost more bits than this error is worth. Above 8 bits they have 16 significant bits.
        Weights that lie on such a grid already get its step in full precision.
        """
        kind = core.GridKind.symmetric if self.symmetric else core.GridKind.affine
        step_bits = 8 if self.bits <= 8 else 16
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        group_size = self._group_size(values.shape[1])
        scale, zero = fit_steps(values, kept, self.bits, kind, step_bits, group_size)
        offsets = None if self.symmetric else zero
        return encode(weight, mask, self.bits, scale, offsets, group_size)

    def _group_size(self, length: int) -> int:
        """As in `Uniform.group_size`; rows without weights cannot be told apart from one step a tensor."""
        if self.granularity == "tensor":
            return 0
        return length if self.group_size is None else min(self.group_size, length)


def fit_steps(
    values: NDArray[np.float32],
    kept: NDArray[np.bool_] | None,
    bits: int,
    kind: core.GridKind,
    step_bits: int,
    group_size: int,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Steps float32 (O, G) and zero points int32 (O, G) of least squared error for `values` (O, N).

    group_size: as in `Uniform`; 0 gives (1, 1). step_bits: significant bits of the steps; 1 for powers of
                two.
    """
    values, kept, native_size = _grouped(values, kept, group_size)
    rows, length = values.shape
    groups = -(-length // native_size)
    scale = np.ones((rows, groups), np.float32)
    zero = np.zeros((rows, groups), np.int32)
    core.fit_uniform(values, kept, native_size, bits, kind, step_bits, scale, zero)
    if group_size == 0 and scale.size == 0:
        return np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32)
    return scale, zero


def encode(
    weight: Tensor,
    mask: Tensor | None,
    bits: int,
    scale: NDArray[np.float32],
    zero: NDArray[np.int32] | None,
    group_size: int,
) -> Uniform:
    """The `Uniform` with the given steps: every kept weight gets its nearest code, pruned ones the code 0."""
    values, kept, native_size = _grouped(float_matrix(weight), mask_matrix(mask, weight), group_size)
    codes = np.zeros(values.shape, np.int8 if bits <= 8 else np.int16)
    if values.size:
        core.uniform_codes(values, kept, native_size, bits, scale, zero, codes)
    return Uniform(
        weight.shape,
        weight.dtype,
        owned_mask(mask),
        bits,
        torch.from_numpy(codes).reshape(weight.shape),
        torch.from_numpy(scale),
        None if zero is None else torch.from_numpy(zero),
        group_size,
    )


def _grouped(
    values: NDArray[np.float32], kept: NDArray[np.bool_] | None, group_size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, int]:
    """What the native functions take: one step a tensor is one row that is one group."""
    if group_size == 0:
        values = values.reshape(1, -1)
        kept = None if kept is None else kept.reshape(1, -1)
        group_size = max(values.shape[1], 1)
    return values, kept, group_size
