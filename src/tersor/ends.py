"""Steps of quantized groups that follow from the extremes of the weights: half the side information.

Quantizers derive a group's float16 step from its smallest and largest weight. Where the weights were bfloat16, those
have 8 significant bits each, fewer than the step and the offset that they determine.

Legend: O output channels (rows), G groups a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def steps_of_ends(high: Tensor, low: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
    """(scale, offset), float32 (O, G), of groups whose extremes are `high` and `low`, bfloat16 (O, G).

    With `low`, codes count from the bottom: scale = float16((high - low) / (2^bits - 1)), offset = float16(low).
    Without it `high` is the weight of largest magnitude: scale = float16(high / -2^(bits-1)); with 8 bits `high` is
    positive and scale = float16(high / 127). Each operation is rounded to float32 before. These are the types Q4_1,
    Q5_1, Q4_0, Q5_0 and Q8_0 of GGUF.
    """
    top = high.to(torch.float32)
    if low is None:
        return _half(top / _divisor(bits)), None
    bottom = low.to(torch.float32)
    return _half((top - bottom) / ((1 << bits) - 1)), _half(bottom)


def find_ends(scale: Tensor, offset: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None] | None:
    """(high, low) from which `steps_of_ends` gives float32 (O, G) `scale` and `offset` to the bit, or None."""
    low = None if offset is None else offset.to(torch.bfloat16)
    middle = scale * _divisor(bits) if offset is None else offset + scale * ((1 << bits) - 1)
    nearest = middle.to(torch.bfloat16).view(torch.int16)
    high = nearest.clone()
    missing = torch.ones_like(scale, dtype=torch.bool)
    for shift in (0, 1, -1):  # to the next bfloat16 numbers, away from zero and towards it
        candidate = nearest + shift
        found, start = steps_of_ends(candidate.view(torch.bfloat16), low, bits)
        if start is not None and offset is not None and not _same(start, offset):
            return None
        hits = missing & (found.view(torch.int32) == scale.view(torch.int32))
        high[hits] = candidate[hits]
        missing &= ~hits
        if not bool(missing.any()):
            return high.view(torch.bfloat16), low
        if shift == 0 and missing.sum() * 2 > missing.numel():
            return None
    return None


def _divisor(bits: int) -> int:
    return 127 if bits == 8 else -(1 << bits - 1)


def _half(values: Tensor) -> Tensor:
    return values.to(torch.float16).to(torch.float32)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))
