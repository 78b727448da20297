"""Steps on a logarithmic grid: one bfloat16 number a tensor and one small integer a row.

A step costs 2 to 4 bits in a file so, where a float32 costs 32.

Legend: O output channels (rows).
"""

from __future__ import annotations

import torch
from torch import Tensor

OCTAVE = 8
"""Multipliers an octave."""


def steps_of_multipliers(base: Tensor, multipliers: Tensor) -> Tensor:
    """float32 base * 2^(m / 8), of the shape that `base` (bfloat16) and `multipliers` m (int8) broadcast to.

    2^(m / 8) is a float32 constant times a power of two, and the product is rounded once: the same on every machine.
    """
    m = multipliers.to(torch.int32)
    octaves = torch.div(m, OCTAVE, rounding_mode="floor")
    powers = (octaves + 127 << 23).view(torch.float32)
    return _FRACTIONS[m - octaves * OCTAVE] * powers * base.to(torch.float32)


_FRACTIONS = torch.tensor(
    [1.0, 1.0905077, 1.1892071, 1.2968396, 1.4142135, 1.5422108, 1.6817929, 1.8340080], dtype=torch.float32
)
