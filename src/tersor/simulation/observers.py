"""Observers: what range of an activation a grid should cover, from the values that were seen.

Each is a module whose state is in buffers, so that observing goes on from a state_dict; none keeps an activation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import CalibrationError
from tersor.options import Options
from tersor.simulation.affine import Affine, affine
from tersor.simulation.histogram import Histogram
from tersor.simulation.ranges import entropy_range, mse_range, percentile_range

METHODS = ("min-max", "moving-average", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class Observe(Options):
    """How activations are put on a grid: how many codes, and which range of the values seen they cover.

    bits:       2 to 8.
    method:     "min-max": all that was seen. "moving-average": of each batch's ends (Jacob et al. 2018, 3.1).
                "percentile": all but the outermost. "mse": least squared error. "entropy": least Kullback-Leibler
                divergence (Migacz 2017, TensorRT).
    symmetric:  signed codes with zero = 0; else unsigned ones with a zero point.
    percentile: of the values that are kept, 50 to 100; for that method.
    momentum:   share of a new batch's ends in the moving average, in (0, 1]; for that method.
    """

    name: ClassVar[str] = "observe"

    bits: int = 8
    method: str = "mse"
    symmetric: bool = False
    percentile: float = 99.99
    momentum: float = 0.1

    def __post_init__(self) -> None:
        self.check_integer("bits", 2, 8)
        self.check_choice("method", METHODS)
        self.check_flag("symmetric")
        self.check_number("percentile", 50.0, 100.0)
        self.check_number("momentum", 0.0, 1.0, open_low=True)

    def observer(self) -> Observer:
        """A new observer that has seen nothing."""
        return Ends(self) if self.method in ("min-max", "moving-average") else Distribution(self)


class Observer(nn.Module):
    """Sees activations, one batch after the other, and says which grid suits them.

    seen: int64 (), how many values there were.
    """

    seen: Tensor

    def __init__(self, options: Observe) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Notes `x` (float, any shape) and gives it back. CalibrationError if it holds NaN or Inf."""
        if x.numel():
            low, high = torch.stack(torch.aminmax(x.float())).tolist()  # NaN if there is one
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CalibrationError("an activation holds NaN or Inf; give other samples, or mend the network")
            self._note(x.detach(), low, high)
            self.seen += x.numel()
        return x

    def grid(self) -> Affine:
        """The grid for what was seen. CalibrationError if nothing was."""
        if not int(self.seen):
            raise CalibrationError("nothing was observed: no sample reached this activation")
        low, high = self._range()
        return affine(low, high, self.options.bits, self.options.symmetric)

    @abstractmethod
    def _note(self, x: Tensor, low: float, high: float) -> None:
        """Notes values and their ends."""

    @abstractmethod
    def _range(self) -> tuple[float, float]:
        """The range to cover."""


class Ends(Observer):
    """The smallest and the largest value, of all batches or as a moving average. Buffers: ends float32 (2,)."""

    ends: Tensor

    def __init__(self, options: Observe) -> None:
        super().__init__(options)
        self.register_buffer("ends", torch.zeros(2))

    def _note(self, x: Tensor, low: float, high: float) -> None:
        new = torch.tensor([low, high], device=self.ends.device)
        if not int(self.seen):
            self.ends.copy_(new)
        elif self.options.method == "moving-average":
            self.ends.lerp_(new, self.options.momentum)
        else:
            self.ends.copy_(torch.stack([torch.minimum(self.ends[0], new[0]), torch.maximum(self.ends[1], new[1])]))

    def _range(self) -> tuple[float, float]:
        low, high = self.ends.tolist()
        return low, high


class Distribution(Observer):
    """A histogram, and from it the range: by percentile, squared error or divergence."""

    def __init__(self, options: Observe) -> None:
        super().__init__(options)
        self.histogram = Histogram()

    def _note(self, x: Tensor, low: float, high: float) -> None:
        self.histogram.add(x, low, high)

    def _range(self) -> tuple[float, float]:
        options, histogram = self.options, self.histogram
        values, counts = histogram.values()
        if options.method == "percentile":
            return percentile_range(values, counts, options.percentile)
        if options.method == "mse":
            return mse_range(values, counts, options.bits, options.symmetric)
        low, high = entropy_range(histogram.counts, float(histogram.start), float(histogram.width), options.bits)
        return max(low, float(histogram.smallest)), min(high, float(histogram.largest))
