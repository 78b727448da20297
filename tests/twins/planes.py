"""Byte planes, word by word: the twin of csrc/coding/planes.cpp."""

from __future__ import annotations


def transform(word, width, kind):
    """`word` of `width` bits as the planes hold it."""
    if kind == "float":
        return word << 1 & ((1 << width) - 1) | word >> (width - 1)
    if kind == "signed":
        value = word - (1 << width) if word >> (width - 1) else word
        return 2 * value if value >= 0 else -2 * value - 1
    return word


def inverse(word, width, kind):
    if kind == "float":
        return word >> 1 | (word & 1) << (width - 1)
    if kind == "signed":
        value = word // 2 if word % 2 == 0 else -(word + 1) // 2
        return value % (1 << width)
    return word


def split(words, width, kind):
    """The planes, the most significant first, one behind the other."""
    moved = [transform(word, width, kind) for word in words]
    return bytes(word >> shift & 0xFF for shift in range(width - 8, -1, -8) for word in moved)


def merge(planes, width, kind):
    count = len(planes) * 8 // width
    words = [int.from_bytes(planes[i::count], "big") for i in range(count)]
    return [inverse(word, width, kind) for word in words]
