"""Lossless: the values themselves, exact to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.disguise import recognise
from tersor.matrices import mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask
from tersor.tensors import CompressedTensor, Dense


@dataclass(frozen=True)
class Lossless(RepresentationConfig):
    """Keeps every kept weight exactly, whatever the dtype: integers, bool, complex, NaN payloads."""

    name: ClassVar[str] = "lossless"

    def fit(self, weight: Tensor, mask: Tensor | None = None) -> CompressedTensor:
        """What the weight is in disguise (see `disguise.recognise`), else a `Dense` of its own dtype.

        The result is a copy of the weight. Under a mask it is always `Dense`; masked positions hold zero.
        """
        if mask is None and (found := recognise(weight)) is not None:
            return found
        return Dense(weight.shape, weight.dtype, owned_mask(mask), masked_copy(weight, mask))


def masked_copy(weight: Tensor, mask: Tensor | None) -> Tensor:
    """A contiguous CPU copy of `weight`, zero where `mask` is False. MismatchError if they do not fit."""
    mask_matrix(mask, weight)
    values = weight.detach().to("cpu", copy=True).contiguous()
    if mask is not None and values.numel():
        pruned = (~mask.detach().to("cpu")).contiguous()
        # Any dtype is a string of bytes, float8 and complex included, and zero is zero bytes in all of them.
        octets = values.reshape(-1).view(torch.uint8).view(values.numel(), values.element_size())
        octets[pruned.reshape(-1)] = 0
    return values
