"""Masks as coded bits and as runs: the twin of csrc/coding/adaptive.cpp's masks and coding/masks.py."""

from __future__ import annotations

from tests.twins import adaptive


def encode_bits(mask, geometry, model):
    return adaptive.encode(mask, geometry, 1, False, model)


def decode_bits(blob, geometry, model):
    return adaptive.decode(blob, geometry, 1, False, model)


def gap_symbols(mask):
    """(rarer value, gaps before each occurrence of it, in symbols of at most 255)."""
    rarer = 1 if 2 * sum(mask) <= len(mask) else 0
    symbols, gap = [], 0
    for value in mask:
        if value != rarer:
            gap += 1
            continue
        while gap >= 255:
            symbols.append(255)
            gap -= 255
        symbols.append(gap)
        gap = 0
    return rarer, symbols


def from_gap_symbols(rarer, symbols, count):
    mask = []
    for symbol in symbols:
        mask += [1 - rarer] * symbol
        if symbol < 255:
            mask.append(rarer)
    return mask + [1 - rarer] * (count - len(mask))
