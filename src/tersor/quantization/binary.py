"""Binarize: one bit a weight (Rastegari et al. 2016, XNOR-Net).

Legend: O output channels (rows), N weights a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask, round_means
from tersor.tensors import Binary


@dataclass(frozen=True)
class Binarize(RepresentationConfig):
    """w = +scale or -scale, the sign of the weight and the mean magnitude: XNOR-Net's equations 4 to 6.

    granularity: one scale per output channel or per tensor.
    """

    name: ClassVar[str] = "binary"

    granularity: str = "channel"

    def __post_init__(self) -> None:
        self.check_choice("granularity", ("channel", "tensor"))

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> Binary:
        """The `Binary` of least squared error over the kept weights. Raises as `float_matrix`.

        Scales keep as few significant bits of 8 (bfloat16), 16 and 24 as add less than 0.1 % to the squared error.
        Zero counts as positive.
        """
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        signs = values >= 0
        if kept is not None:
            signs &= kept
        if self.granularity == "tensor" or values.shape[1] == 0:
            values = values.reshape(1, -1)
            kept = None if kept is None else kept.reshape(1, -1)
        rows = range(values.shape[0])
        moments = [magnitude_moments(values[row], None if kept is None else kept[row]) for row in rows]
        means = np.array([[m.mean] for m in moments], np.float64).reshape(-1, 1).astype(np.float32)
        mass = np.array([[m.size] for m in moments], np.float64).reshape(-1, 1)
        scale = round_means(means, mass, sum(m.squares - m.size * m.mean**2 for m in moments))
        return Binary(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            torch.from_numpy(signs).reshape(weight.shape),
            torch.from_numpy(scale),
        )


class Moments(NamedTuple):
    """Of magnitudes: how many, their mean, and the sum of their squares."""

    size: int
    mean: float
    squares: float


def magnitude_moments(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> Moments:
    """Moments of |w| over the kept weights of one row (N,), summed in double; all 0 for none."""
    count, total, squares = 0, 0.0, 0.0
    for block in blocks(row.size):
        part = np.abs(row[block] if kept is None else row[block][kept[block]])
        count += part.size
        total += float(np.sum(part, dtype=np.float64))
        squares += float(np.sum(np.square(part, dtype=np.float64)))
    return Moments(count, total / count if count else 0.0, squares)
