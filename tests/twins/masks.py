"""Masks as context-coded bits and as runs: the twin of csrc/coding/adaptive.cpp's masks and coding/masks.py."""

from __future__ import annotations

from tests.twins.adaptive import Coder, neighbours


def _run(coder, mask, geometry, model):
    near = []
    for i in range(len(mask)):
        left, left2, previous, up, up_left, up_right = neighbours(near, i, geometry)
        around = left | left2 << 1 | up << 2 | up_left << 3 | up_right << 4
        in_row = i % geometry.row_length
        density = 2 * sum(near[i - min(in_row, 15) : i]) + previous
        mask[i] = int(model.code(coder, 0, around, density, 0, mask[i] == 1))
        near.append(mask[i])


def encode_bits(mask, geometry, model):
    coder = Coder()
    _run(coder, list(mask), geometry, model)
    return coder.finish()


def decode_bits(blob, geometry, model):
    coder = Coder(blob)
    mask = [0] * geometry.elements
    _run(coder, mask, geometry, model)
    coder.finish()
    return mask


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
