"""Ternarize: weights in {-1, 0, 1} times a scale (Li et al. 2016, Ternary Weight Networks).

Legend: O output channels (rows), N weights a row, S_k sum of the k largest magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.binary import mean_magnitude
from tersor.quantization.config import RepresentationConfig, owned_mask, round_significant
from tersor.tensors import Ternary

TWN_FACTOR = 0.7
"""Li et al. 2016, equation 6: the threshold as a multiple of the mean magnitude."""


@dataclass(frozen=True)
class Ternarize(RepresentationConfig):
    """w = scale * sign(w) where |w| reaches a threshold, else 0.

    granularity: one scale and threshold per output channel or per tensor.
    rule:        "optimal" is the threshold of least squared error (equation 4, solved exactly); "twn" is the
                 paper's approximation, 0.7 times the mean magnitude.
    """

    name: ClassVar[str] = "ternary"

    granularity: str = "channel"
    rule: str = "optimal"

    def __post_init__(self) -> None:
        self.check_choice("granularity", ("channel", "tensor"))
        self.check_choice("rule", ("optimal", "twn"))

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> Ternary:
        """The `Ternary` of the kept weights; pruned ones get the code 0. Raises as `float_matrix`.

        Scales are bfloat16 numbers (that costs less than 0.01 % of the squared error), 1 where all codes are
        0.
        """
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        if self.granularity == "tensor" or values.shape[1] == 0:
            values = values.reshape(1, -1)
            kept = None if kept is None else kept.reshape(1, -1)
        codes = np.zeros(values.shape, np.int8)
        scale = np.ones((values.shape[0], 1), np.float32)
        for row in range(values.shape[0]):
            row_kept = None if kept is None else kept[row]
            if self.rule == "optimal":
                threshold, mean = optimal_threshold(values[row], row_kept)
            else:
                threshold, mean = twn_threshold(values[row], row_kept)
            if mean > 0:
                scale[row] = mean
                _write_codes(values[row], row_kept, threshold, codes[row])
        return Ternary(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            torch.from_numpy(codes).reshape(weight.shape),
            torch.from_numpy(round_significant(scale, 8)),
        )


def optimal_threshold(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> tuple[np.float32, float]:
    """(threshold, scale) of least squared error for one row (N,): |w| >= threshold becomes +-scale.

    With the k largest magnitudes kept the error is sum w^2 - S_k^2 / k, so k maximises S_k^2 / k.
    """
    magnitudes = np.abs(row if kept is None else row[kept])
    magnitudes.sort()
    descending = magnitudes[::-1]
    best_gain, best_count, best_sum, total = 0.0, 0, 0.0, 0.0
    for block in blocks(descending.size):
        sums = np.cumsum(descending[block], dtype=np.float64) + total
        gains = sums * sums / np.arange(block.start + 1, block.stop + 1)
        at = int(np.argmax(gains))
        if gains[at] > best_gain:
            best_gain, best_count, best_sum = float(gains[at]), block.start + at + 1, float(sums[at])
        total = float(sums[-1])
    if best_count == 0:
        return np.float32(0), 0.0
    return descending[best_count - 1], best_sum / best_count


def twn_threshold(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> tuple[np.float32, float]:
    """(threshold, scale) of Li et al. 2016 for one row (N,): equation 6, then equation 5 for the scale."""
    threshold = np.nextafter(np.float32(TWN_FACTOR * mean_magnitude(row, kept)), np.float32(np.inf))
    above = np.abs(row) >= threshold
    return threshold, mean_magnitude(row, above if kept is None else above & kept)


def _write_codes(
    row: NDArray[np.float32], kept: NDArray[np.bool_] | None, threshold: np.float32, codes: NDArray[np.int8]
) -> None:
    np.subtract(row >= threshold, row <= -threshold, out=codes, dtype=np.int8, casting="unsafe")
    if kept is not None:
        codes[~kept] = 0
