"""Ternarize: weights in {-1, 0, 1} times a scale (Li et al. 2016, Ternary Weight Networks).

Legend: O output channels (rows), N weights a row, S_k sum of the k largest magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.binary import magnitude_moments
from tersor.quantization.config import RepresentationConfig, owned_mask, round_means
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

        Scales keep as few significant bits of 8 (bfloat16), 16 and 24 as add less than 0.1 % to the squared error;
        they are 1 where all codes are 0.
        """
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        if self.granularity == "tensor" or values.shape[1] == 0:
            values = values.reshape(1, -1)
            kept = None if kept is None else kept.reshape(1, -1)
        codes = np.zeros(values.shape, np.int8)
        scale = np.ones((values.shape[0], 1), np.float32)
        mass = np.zeros(scale.shape)
        error = 0.0
        for row in range(values.shape[0]):
            row_kept = None if kept is None else kept[row]
            squares = magnitude_moments(values[row], row_kept).squares
            if self.rule == "optimal":
                chosen = optimal_threshold(values[row], row_kept)
            else:
                chosen = twn_threshold(values[row], row_kept)
            if chosen.mean > 0:
                scale[row], mass[row] = chosen.mean, chosen.size
                _write_codes(values[row], row_kept, chosen.threshold, codes[row])
            error += squares - chosen.size * chosen.mean**2
        return Ternary(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            torch.from_numpy(codes).reshape(weight.shape),
            torch.from_numpy(round_means(scale, mass, error)),
        )


class Threshold(NamedTuple):
    """Weights with |w| >= threshold become +-mean, their mean magnitude; there are `size` of them."""

    threshold: np.float32
    size: int
    mean: float


def optimal_threshold(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> Threshold:
    """The threshold of least squared error for one row (N,).

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
        return Threshold(np.float32(0), 0, 0.0)
    return Threshold(descending[best_count - 1], best_count, best_sum / best_count)


def twn_threshold(row: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> Threshold:
    """Li et al. 2016, for one row (N,): the threshold of equation 6, then the scale of equation 5."""
    mean = magnitude_moments(row, kept).mean
    threshold = np.nextafter(np.float32(TWN_FACTOR * mean), np.float32(np.inf))
    above = np.abs(row) >= threshold
    chosen = magnitude_moments(row, above if kept is None else above & kept)
    return Threshold(threshold, chosen.size, chosen.mean)


def _write_codes(
    row: NDArray[np.float32], kept: NDArray[np.bool_] | None, threshold: np.float32, codes: NDArray[np.int8]
) -> None:
    np.subtract(row >= threshold, row <= -threshold, out=codes, dtype=np.int8, casting="unsafe")
    if kept is not None:
        codes[~kept] = 0
