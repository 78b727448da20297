"""FixedPoint: integers of a few bits times a power of two (the Qm.n numbers of signal processors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from tersor._native import core
from tersor.matrices import float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig
from tersor.quantization.uniform import encode, fit_steps
from tersor.tensors import Uniform


@dataclass(frozen=True)
class FixedPoint(RepresentationConfig):
    """w = 2^-n q with integers q of `bits` bits, so that decoding is a shift.

    bits:        1 to 16, the sign included: m + n + 1 of Qm.n.
    fraction:    n, the fraction bits, -120 to 126; None chooses n for the least squared error.
    granularity: one n per tensor or per output channel.
    """

    name: ClassVar[str] = "fixed"

    bits: int = 8
    fraction: int | None = None
    granularity: str = "tensor"

    def __post_init__(self) -> None:
        self.check_integer("bits", 1, 16)
        if self.fraction is not None:
            self.check_integer("fraction", -120, 126)
        self.check_choice("granularity", ("tensor", "channel"))

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> Uniform:
        """A symmetric `Uniform` whose steps are powers of two. Raises as `float_matrix`."""
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        group_size = 0 if self.granularity == "tensor" else values.shape[1]
        if self.fraction is None:
            scale, _ = fit_steps(values, kept, self.bits, core.GridKind.positive, 1, group_size)
        else:
            shape = (1 if group_size == 0 else values.shape[0], 1)
            scale = np.full(shape, 2.0**-self.fraction, np.float32)
        return encode(weight, mask, self.bits, scale, None, group_size)
