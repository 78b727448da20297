"""How much to damp H, and how far its promises hold, from two halves of the samples.

Error feedback trusts H to say which errors cancel. An H of few samples cancels errors that other samples bring back:
the error on samples that it was not made of is what counts, and it falls when H is damped more, up to a point.

Feedback makes the error of a row e = d V, where d are the roundings of its columns, independent and of variance
D^2 / 12. So e costs D^2 / 12 tr(V H' V^T) under any other H', whatever the weight is.

Legend: G groups, N inputs of a row, D a step, U and V as in `Factor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tersor.calibration.damping import DAMPING, Factor, factorize
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import MismatchError

_GROWTH = 10**0.5
"""From one damping that is tried to the next."""

_HIGHEST = 10.0
"""With a ten times the mean of H's diagonal there is hardly any feedback left."""


@dataclass(frozen=True)
class Trust:
    """How far a layer's H can be trusted.

    damping:    a, as a part of the mean of H's diagonal: the best of those tried for samples that H does not know.
    correction: how many times larger the errors of these are than H + a I promises, smaller than 1 where a was chosen
                large. G_r is to be multiplied by it before steps are taken from the two (`loss_steps`).
    """

    damping: float = DAMPING
    correction: float = 1.0


def cross_validate(first: LayerStatistics, second: LayerStatistics) -> Trust:
    """The damping for H of all samples, from the statistics of two halves of them; each is tried on the other.

    Dampings grow from `DAMPING` by half an order of magnitude until errors on the other half grow.
    Raises MismatchError if the halves are of different layers, or one of them has no samples.
    """
    if first.shape != second.shape or first.layout != second.layout or not first.samples or not second.samples:
        raise MismatchError(
            f"two halves of the samples of one layer are needed, got weights of shape {tuple(first.shape)} with "
            f"{first.samples} samples and {tuple(second.shape)} with {second.samples}"
        )
    if first.layout.diagonal:
        return Trust()
    best, found = float("inf"), Trust()
    damping = DAMPING
    while damping <= _HIGHEST * 1.01:
        promised, kept = 0.0, 0.0
        for known, other in ((first, second), (second, first)):
            factor = factorize(known, damping)
            promised += float(factor.precision().sum())
            kept += _cost(factor, other)
        if not 0 < kept < best:
            break
        best, found = kept, Trust(damping, kept / promised)
        damping *= _GROWTH
    return found


def _cost(factor: Factor, other: LayerStatistics) -> float:
    """tr(V H' V^T), all groups, H' of one of the other samples on average."""
    assert factor.feedback is not None
    moment = other.moment.double() / other.samples
    return float(torch.einsum("gjk,gjk->", factor.feedback @ moment, factor.feedback))
