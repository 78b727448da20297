"""Codes of grids with an offset, counted from the weight zero: groups with different ranges get codes that are alike.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.layers import matrix_shape


def zero_levels(scale: Tensor, offset: Tensor, bits: int) -> Tensor:
    """The level of the weight zero in each group, counted from the bottom of its range: int32 in [0, 2^bits - 1].

    scale, offset: float32, of one shape. It is the integer nearest to -offset / scale (the quotient rounded to float32,
    ties to even), 0 where that is no number, or the nearest end of the range.
    """
    quotient = (-offset / scale).nan_to_num_(0.0).clamp_(0, (1 << bits) - 1)
    return quotient.round_().to(torch.int32)


def wrapped(codes: Tensor, bits: int) -> Tensor:
    """`codes` (int8 or int16, whose sums may have wrapped around) modulo 2^bits, from -2^(bits-1); changed in place."""
    unused = 8 * codes.itemsize - bits
    return codes.bitwise_left_shift_(unused).bitwise_right_shift_(unused)


def centred(codes: Tensor, scale: Tensor, offset: Tensor, bits: int, group_size: int) -> Tensor:
    """Codes that count from the level of zero, modulo 2^bits, of those that count from the bottom of the range.

    codes: int8 (bits <= 8) or int16, level - 2^(bits-1), of the weight's shape. The result has the same range.
    scale, offset: float32 (O, G) or (1, 1), group_size: as in `tensors.Uniform`.
    """
    rows, length = matrix_shape(codes.shape)
    zeros = (zero_levels(scale, offset, bits) - (1 << bits - 1)).to(codes.dtype)
    groups = zeros.shape[1]
    if groups > 1 and groups * group_size == length:
        result = codes.reshape(rows, groups, group_size) - zeros[:, :, None]
    else:
        if groups > 1:
            zeros = zeros.index_select(1, torch.arange(length) // group_size)
        result = codes.reshape(rows, length) - zeros
    return wrapped(result, bits).reshape(codes.shape)
