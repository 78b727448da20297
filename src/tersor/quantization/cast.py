"""Cast: the values in a narrower float dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask
from tersor.tensors import Dense

CAST_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Cast(RepresentationConfig):
    """Every weight as a float of 16 or 8 bits, rounded to nearest even from float32.

    dtype: "float16", "bfloat16", "float8_e4m3fn" or "float8_e5m2". Values beyond its range become its largest
           finite number, so that finite weights stay finite.
    """

    name: ClassVar[str] = "float"

    dtype: str = "float16"

    def __post_init__(self) -> None:
        self.check_choice("dtype", CAST_DTYPES)

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> Dense:
        """A `Dense` with values of the narrow dtype; masked positions hold zero. Raises as `float_matrix`."""
        source = torch.from_numpy(float_matrix(weight).reshape(-1))
        kept = mask_matrix(mask, weight)
        dtype = CAST_DTYPES[self.dtype]
        largest = torch.finfo(dtype).max
        values = torch.empty(weight.numel(), dtype=dtype)
        for block in blocks(weight.numel()):
            part = source[block].clamp(-largest, largest)
            if kept is not None:
                part.masked_fill_(torch.from_numpy(~kept.reshape(-1)[block]), 0.0)
            values[block] = part.to(dtype)
        return Dense(weight.shape, weight.dtype, owned_mask(mask), values.reshape(weight.shape))
