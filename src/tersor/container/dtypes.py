"""The closed registry of dtypes in a .tsr file, and their views as plain unsigned words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersor.errors import CorruptFileError, UnsupportedTypeError


@dataclass(frozen=True)
class WireType:
    """number: in the file. word: numpy dtype of the bit view. kind: for `coding.encode_array`. words: an element."""

    number: int
    dtype: torch.dtype
    word: np.dtype
    kind: str
    words: int = 1


def _rows() -> list[WireType]:
    plain = [
        (0, "float32", "u4", "float", 1),
        (1, "float16", "u2", "float", 1),
        (2, "bfloat16", "u2", "float", 1),
        (3, "float64", "u8", "float", 1),
        (4, "float8_e4m3fn", "u1", "float", 1),
        (5, "float8_e5m2", "u1", "float", 1),
        (6, "float8_e4m3fnuz", "u1", "float", 1),
        (7, "float8_e5m2fnuz", "u1", "float", 1),
        (8, "float8_e8m0fnu", "u1", "unsigned", 1),
        (16, "int8", "u1", "signed", 1),
        (17, "int16", "u2", "signed", 1),
        (18, "int32", "u4", "signed", 1),
        (19, "int64", "u8", "signed", 1),
        (20, "uint8", "u1", "unsigned", 1),
        (21, "uint16", "u2", "unsigned", 1),
        (22, "uint32", "u4", "unsigned", 1),
        (23, "uint64", "u8", "unsigned", 1),
        (24, "bool", "u1", "bool", 1),
        (28, "complex64", "u4", "float", 2),
        (29, "complex128", "u8", "float", 2),
    ]
    return [
        WireType(number, getattr(torch, name), np.dtype(word), kind, words)
        for number, name, word, kind, words in plain
        if hasattr(torch, name)  # float8_e8m0fnu came with torch 2.7
    ]


_BY_DTYPE = {row.dtype: row for row in _rows()}
_BY_NUMBER = {row.number: row for row in _rows()}


def wire_type(dtype: torch.dtype, name: str) -> WireType:
    """The registry's row of `dtype`; UnsupportedTypeError naming tensor `name` if it has none."""
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        raise UnsupportedTypeError(
            f"tensor {name!r} has dtype {dtype}, which a .tsr file cannot hold; convert it to a float or integer dtype"
        ) from None


def wire_type_of(number: int) -> WireType:
    """The registry's row of a number read from a file; CorruptFileError if it has none."""
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise CorruptFileError(
            f"dtype number {number} is unknown; the file may need a newer tersor or a newer torch"
        ) from None


def to_words(tensor: Tensor, row: WireType) -> np.ndarray:
    """The bits of `tensor` as a flat array of unsigned words (a view where the tensor is contiguous)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(row.word)


def empty_words(count: int, row: WireType) -> np.ndarray:
    """An uninitialised buffer for `count` elements."""
    return np.empty(count * row.words, row.word)


def from_words(words: np.ndarray, row: WireType, shape: tuple[int, ...]) -> Tensor:
    """The tensor whose bits `words` hold; it shares their memory."""
    flat = torch.from_numpy(words.view(np.uint8))
    return flat.view(row.dtype).reshape(shape)
