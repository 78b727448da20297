"""Binarize: one bit a weight (Rastegari et al. 2016, XNOR-Net).

Legend: O output channels (rows), N weights a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask, round_significant
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

        Scales are bfloat16 numbers (that costs less than 0.01 % of the squared error); zero counts as
        positive.
        """
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        signs = values >= 0
        if kept is not None:
            signs &= kept
        if self.granularity == "tensor" or values.shape[1] == 0:
            values = values.reshape(1, -1)
            kept = None if kept is None else kept.reshape(1, -1)
        rows = range(values.shape[0])
        means = [mean_magnitude(values[row], None if kept is None else kept[row]) for row in rows]
        scale = round_significant(np.array(means, np.float64).astype(np.float32).reshape(-1, 1), 8)
        return Binary(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            torch.from_numpy(signs).reshape(weight.shape),
            torch.from_numpy(scale),
        )


def mean_magnitude(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> float:
    """Mean |w| over the kept weights of one row (N,), summed in double; 0 for none."""
    total, count = 0.0, 0
    for block in blocks(row.size):
        part = row[block] if kept is None else row[block][kept[block]]
        total += float(np.sum(np.abs(part), dtype=np.float64))
        count += part.size
    return total / count if count else 0.0
