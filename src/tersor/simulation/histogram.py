"""Histograms that grow with what they see: counts in bins that double where the values do not fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 2048
_MOST = 1 << 18


class Histogram(nn.Module):
    """Counts of real numbers in N bins of equal width, and the sum of the values of each.

    Buffers (so that it goes on from a state_dict): counts, sums float64 (N,); start, width float64 (), the lower end
    of the first bin and the width of each, width 0 before anything was seen; smallest, largest float64 ().
    """

    counts: Tensor
    sums: Tensor
    start: Tensor
    width: Tensor
    smallest: Tensor
    largest: Tensor

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        for name in ("counts", "sums"):
            self.register_buffer(name, torch.zeros(bins, dtype=torch.float64))
        for name in ("start", "width", "smallest", "largest"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor, low: float, high: float) -> None:
        """Counts the values of `x`, floats of any shape between `low` and `high`, their finite ends.

        Of large tensors every nth value counts, some 2^18 of them; their ends are noted all the same.
        """
        values = x.detach().reshape(-1)
        # Odd, so that it falls on all channels of the usual shapes.
        values = values[:: values.numel() // _MOST | 1].float()
        bins = len(self.counts)
        if float(self.width) == 0:
            # A constant gets bins, too; their width is far above its rounding.
            self.width.fill_(max((high - low) * (1 + 1e-6), abs(high) * 1e-3, 1e-30) / bins)
            self.start.fill_(low)
            self.smallest.fill_(low)
            self.largest.fill_(high)
        self.smallest.clamp_(max=low)
        self.largest.clamp_(min=high)
        while low < float(self.start):
            self._double(downwards=True)
        while high >= float(self.start + self.width * bins):
            self._double(downwards=False)
        places = ((values.double() - self.start) / self.width).long().clamp_(0, bins - 1)
        self.counts += torch.bincount(places, minlength=bins).double()
        self.sums += torch.bincount(places, weights=values.double(), minlength=bins)

    def values(self) -> tuple[Tensor, Tensor]:
        """(means, counts) of the bins that are not empty, float64, ascending."""
        seen = self.counts > 0
        return self.sums[seen] / self.counts[seen], self.counts[seen]

    def _double(self, downwards: bool) -> None:
        """Bins of twice the width: pairs are merged, and the other half is new, below or above."""
        half = len(self.counts) // 2
        for buffer in (self.counts, self.sums):
            merged = buffer.reshape(half, 2).sum(1)
            buffer.zero_()
            buffer[half:] = merged if downwards else 0.0
            if not downwards:
                buffer[:half] = merged
        if downwards:
            self.start.sub_(self.width * 2 * half)
        self.width.mul_(2)
