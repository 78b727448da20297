"""What representations would take in a file: bytes by order-0 entropy, tables and overhead included.

Good enough to choose between representations; nothing is encoded for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core
from tersor.disguise.words import words_of
from tersor.tensors import Codebook, CompressedTensor, Dense, Patched, SignedZeros, Uniform

_SECTION = 4  # bytes in the index and the blob's header
_SYMBOL = 0.7  # bytes that a coder spends on learning a symbol
_CODES = 0.95  # what the contexts of codes leave of their entropy, compared to those of other arrays, about
_SAMPLE = 1 << 16  # words
_BLOCK = 1 << 10


def estimate(tensor: CompressedTensor) -> float:
    """Bytes of a tensor in a file. TypeError for the kinds that are not recognised (binary, ternary)."""
    mask = None if tensor.mask is None else tensor.mask.reshape(-1).numpy()
    total = 0.0 if mask is None else _SECTION + _mask_bytes(mask)
    if isinstance(tensor, Dense):
        return total + array_bytes(_kept(tensor.values, mask))
    if isinstance(tensor, Patched):
        places = tensor.places.numel() * math.log2(1 + tensor.base.numel / tensor.run) / 8
        return estimate(tensor.base) + places + array_bytes(words_of(tensor.values)) + _SECTION
    if isinstance(tensor, SignedZeros):
        return estimate(tensor.base) + _SECTION + _mask_bytes(tensor.negative.reshape(-1).numpy())
    if isinstance(tensor, Codebook):
        return total + symbol_bytes(_codes(tensor.codes, mask)) + array_bytes(words_of(tensor.codebook))
    if isinstance(tensor, Uniform):
        steps = (tensor.scale, tensor.zero, tensor.offset) if tensor.high is None else (tensor.high, tensor.low)
        tables = [table for table in steps if table is not None]
        return total + symbol_bytes(_codes(tensor.codes, mask)) + sum(array_bytes(words_of(table)) for table in tables)
    raise TypeError(f"no estimate for a {tensor.kind} tensor")


def symbol_bytes(symbols: NDArray[Any]) -> float:
    """Bytes of coded `symbols`, a flat array of uint8, int8 or int16."""
    if symbols.size == 0:
        return _SECTION
    entropy, used = core.measure_symbols(np.ascontiguousarray(symbols), 8 * symbols.itemsize)  # in 2^-16 bits
    return _SECTION + min(_CODES * entropy / (1 << 19) + _SYMBOL * used, symbols.nbytes)


def array_bytes(words: NDArray[Any]) -> float:
    """Bytes of a coded array, given as a flat array of unsigned words: each plane of bytes by itself.

    Large arrays are sampled.
    """
    if words.size == 0:
        return _SECTION
    sample = words
    if words.size > _SAMPLE:
        starts = np.linspace(0, words.size - _BLOCK, _SAMPLE // _BLOCK).astype(np.int64)
        sample = words[starts[:, None] + np.arange(_BLOCK)].reshape(-1)
    if sample.dtype.itemsize > 1:  # the sign apart from the exponent, which fills a byte then
        sample = (sample << sample.dtype.type(1)) | (sample >> sample.dtype.type(8 * sample.itemsize - 1))
    planes = np.ascontiguousarray(sample).view(np.uint8).reshape(-1, sample.itemsize)
    per_word = 0.0
    for plane in planes.T:
        entropy, used = core.measure_symbols(np.ascontiguousarray(plane), 8)
        per_word += min(entropy / (1 << 19) + _SYMBOL * (used - 1), plane.size) / plane.size
    return _SECTION + words.size * per_word


def _mask_bytes(mask: NDArray[np.bool_]) -> float:
    density = np.count_nonzero(mask) / max(mask.size, 1)
    return mask.size / 8 * sum(-p * math.log2(p) for p in (density, 1 - density) if p > 0)


def _codes(codes: Tensor, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    flat = codes.reshape(-1).numpy()
    return flat if mask is None else flat[mask]


def _kept(values: Tensor, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    words = words_of(values)
    return words if mask is None else words[mask]
