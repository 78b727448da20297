"""Straight-through gradients (Bengio et al. 2013): steps forward, a smooth function backward.

All are pure functions of ordinary operations: they compile, and can be differentiated twice.
"""

from __future__ import annotations

import torch
from torch import Tensor


def straight_through(value: Tensor, relaxed: Tensor) -> Tensor:
    """`value`, exact to the bit, with the gradients of `relaxed` (finite, of a shape that broadcasts to it)."""
    # The difference is zero: added to the value instead of the other way round, so that nothing is rounded.
    return value.detach() + (relaxed - relaxed.detach())


def rounded(x: Tensor) -> Tensor:
    """x to the nearest integer, ties to even; the gradient of x."""
    return straight_through(x.round(), x)


def clamped(x: Tensor, low: float, high: float) -> Tensor:
    """x, not below `low` nor above `high`; the gradient of x, outside too."""
    return straight_through(x.clamp(low, high), x)


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1; the gradient of x where |x| <= 1, else 0 (Hubara et al. 2016, equation 4)."""
    return straight_through(torch.where(x >= 0, 1.0, -1.0).to(x.dtype), x.clamp(-1.0, 1.0))


def significant(x: Tensor, bits: int) -> Tensor:
    """float32 x rounded to `bits` significant bits (2 to 24), ties to even; the gradient of x.

    Numbers as the file stores them in few bytes: 8 bits are those of bfloat16, 16 take three bytes.
    """
    drop = 24 - bits
    if drop == 0:
        return x
    # Through a cast to bfloat16 and back compilers would see nothing that is worth computing.
    raw = x.detach().view(torch.int32)
    raw = (raw + ((1 << drop - 1) - 1) + ((raw >> drop) & 1)) & -(1 << drop)
    return straight_through(raw.view(torch.float32), x)


def in_units(parameter: Tensor, unit: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """parameter * unit, float32, for parameters that are counted in units of their first value.

    The parameter's gradient is gain * g / unit, with g the gradient of the result. So plain gradient descent moves the
    result as if it were the parameter itself (times `gain`), and optimizers that normalise gradients (Adam) move it by
    their learning rate times its unit: one rate serves layers of all magnitudes.
    """
    numbers = parameter.to(torch.float32)
    return straight_through(numbers * unit, numbers * (gain / unit))
