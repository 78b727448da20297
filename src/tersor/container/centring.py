"""Codes of grids with an offset, counted from zero: groups with different ranges get codes that are alike.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.layers import matrix_shape


def centred(codes: Tensor, scale: Tensor, offset: Tensor, bits: int, group_size: int) -> Tensor:
    """Codes of `bits` bits less those of the weight zero in their groups, modulo 2^bits: a new tensor.

    codes: int8 or int16 of the weight's shape, in [-2^(bits-1), 2^(bits-1) - 1], as is the result.
    scale, offset, group_size: as in `tensors.Uniform`. The code of zero is the integer nearest to -offset / scale (ties
    to even, the quotient rounded to float32; 0 where it is none), at most 2^bits - 1 and at least 0.
    """
    return _shifted(codes, -_zeros(scale, offset, bits), bits, group_size)


def uncentred(
    codes: Tensor, scale: Tensor, offset: Tensor, bits: int, group_size: int, first_column: int = 0
) -> Tensor:
    """The inverse of `centred`, also of a block of the matrix of weights that begins at `first_column`.

    scale, offset: of the rows of the block.
    """
    return _shifted(codes, _zeros(scale, offset, bits), bits, group_size, first_column)


def _zeros(scale: Tensor, offset: Tensor, bits: int) -> Tensor:
    """Levels of the weight zero, int16 (O, G)."""
    quotient = (-offset / scale).nan_to_num_(0.0).clamp_(0, (1 << bits) - 1)
    return quotient.round_().to(torch.int32).to(torch.int16)


def _shifted(codes: Tensor, shift: Tensor, bits: int, group_size: int, first_column: int = 0) -> Tensor:
    rows, length = matrix_shape(codes.shape)
    shift = shift.to(codes.dtype)
    if shift.shape[1] > 1 and length == shift.shape[1] * group_size:
        result = codes.reshape(rows, shift.shape[1], group_size) + shift[:, :, None]
    else:
        if shift.shape[1] > 1:
            shift = shift.index_select(1, torch.arange(first_column, first_column + length) // group_size)
        result = codes.reshape(rows, length) + shift
    unused = 8 * codes.itemsize - bits  # sums wrap around in the upper `bits` bits of their words
    return result.bitwise_left_shift_(unused).bitwise_right_shift_(unused).reshape(codes.shape)
