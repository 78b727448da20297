"""Tensors of few distinct values: clustered, pruned and fake-quantized networks.

Legend: O output channels (rows), N weights a row, T codebooks, K centroids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor._native import core
from tersor.disguise.words import KINDS, words_of
from tersor.layers import matrix_shape
from tersor.tensors import Codebook, Dense, SignedZeros

MOST = 256
_SIGNED = 16  # of so many weights one at least is -0, where zeros are looked at apart from their signs
_SPARSE = 0.3  # share of zeros from which a mask of its own is smaller than a zero among the codes


def codebook(values: Tensor) -> Codebook | None:
    """One codebook for all of `values` (a dtype of `words.KINDS`), or None if they have more than 256 bit patterns."""
    return _whole(values, pruned=False)


def pruned_codebook(values: Tensor) -> Codebook | None:
    """One codebook for all but the zeros (of zero bits), which are pruned; or None if they are few or none."""
    words = words_of(values)
    if not _SPARSE * words.size <= np.count_nonzero(words == 0) < words.size:
        return None
    return _whole(values, pruned=True)


def row_codebooks(values: Tensor, most: int = 16) -> Codebook | None:
    """A codebook a row (T = O), or None if a row has more than `most` bit patterns."""
    rows, length = matrix_shape(values.shape)
    words = words_of(values).reshape(rows, length)
    order = KINDS[values.dtype].order
    books = np.empty((rows, most), words.dtype)
    codes = np.empty((rows, length), np.uint8)
    widest = 0
    for row in range(rows):
        count = core.distinct_words(words[row], order, False, books[row], codes[row])
        if not count:
            return None
        books[row, count:] = books[row, count - 1]  # no code points there
        widest = max(widest, count)
    return _codebook(values, codes, books[:, :widest])


def dense_without_zeros(values: Tensor) -> Dense:
    """`values` with (positive) zeros pruned."""
    mask = torch.from_numpy(words_of(values) != 0).reshape(values.shape)
    return Dense(values.shape, values.dtype, mask, values)


def with_signed_zeros(values: Tensor) -> SignedZeros | None:
    """Real floats with zeros of both signs pruned, the rest a codebook if it has few values; None without both."""
    words = words_of(values)
    sign = words.dtype.type(1 << 8 * words.itemsize - 1)
    zeros, negative = words << words.dtype.type(1) == 0, words == sign
    if negative.sum() * _SIGNED < words.size or not (zeros & ~negative).any() or zeros.all():
        return None
    cleared = torch.from_numpy(np.where(negative, words.dtype.type(0), words).view(np.uint8))
    positive = cleared.view(values.dtype).reshape(values.shape)
    base = pruned_codebook(positive) or dense_without_zeros(positive)
    return SignedZeros(
        values.shape, values.dtype, base.mask, base, torch.from_numpy(negative.reshape(matrix_shape(values.shape)))
    )


def _whole(values: Tensor, pruned: bool) -> Codebook | None:
    words = words_of(values)
    book = np.empty(MOST, words.dtype)
    codes = np.empty(words.size, np.uint8)
    count = core.distinct_words(words, KINDS[values.dtype].order, pruned, book, codes)
    if not count:
        return None
    return _codebook(values, codes, book[None, :count], torch.from_numpy(words != 0) if pruned else None)


def _codebook(values: Tensor, codes: NDArray[np.uint8], book: NDArray[Any], mask: Tensor | None = None) -> Codebook:
    shape = values.shape
    table = torch.from_numpy(np.ascontiguousarray(book).view(np.uint8)).view(values.dtype).reshape(book.shape)
    mask = None if mask is None else mask.reshape(shape)
    return Codebook(shape, values.dtype, mask, _bits(book.shape[1]), torch.from_numpy(codes).reshape(shape), table)


def _bits(centroids: int) -> int:
    return max((centroids - 1).bit_length(), 1)
