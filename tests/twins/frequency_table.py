"""Static frequencies that sum to a power of two: the twin of csrc/coding/histogram.cpp and frequency_table.cpp.

Symbols come as indices 0 .. 2^bits - 1 everywhere in the twins.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from tests.twins.bits import BitWriter, get_widths, put_widths


def log2_fixed(value):
    """log2(value) in 2^-16, by squaring."""
    whole = value.bit_length() - 1
    mantissa = value << (31 - whole) if whole <= 31 else value >> (whole - 31)
    log = whole
    for _ in range(16):
        mantissa = mantissa * mantissa >> 31
        log *= 2
        if mantissa >> 32:
            mantissa >>= 1
            log += 1
    return log


def count_alphabet(indices, bits):
    """(split, first, counts): top bits of the indices that occur."""
    split = max(0, bits - 12)
    counted = Counter(i >> split for i in indices)
    first = min(counted)
    return split, first, [counted[i] for i in range(first, max(counted) + 1)]


def normalize(counts, scale_bits):
    total = sum(counts)
    f = [max(1, ((c << scale_bits) + total // 2) // total) if c else 0 for c in counts]
    used = [i for i, c in enumerate(counts) if c]
    while sum(f) < 1 << scale_bits:
        f[max(used, key=lambda i: (Fraction(counts[i], 2 * f[i] + 1), -i))] += 1
    while sum(f) > 1 << scale_bits:
        f[min((i for i in used if f[i] > 1), key=lambda i: (Fraction(counts[i], 2 * f[i] - 1), i))] -= 1
    return f


def choose_table(counts, write):
    """(scale_bits, frequencies); write(scale_bits, frequencies) gives the bits of the table."""
    if len(counts) == 1:
        return 0, [1]
    total = sum(counts)
    used = sum(c > 0 for c in counts)
    finest = 12 if len(counts) <= 256 else 14
    if total >= 1 << 16:
        return finest, normalize(counts, finest)
    best = None
    for scale in range(max(6, used.bit_length()), finest + 1):
        f = normalize(counts, scale)
        cost = len(write(scale, f).bits) << 16
        cost += sum(c * ((scale << 16) - log2_fixed(x)) for c, x in zip(counts, f, strict=True) if c)
        if best is None or cost < best[0]:
            best = cost, scale, f
    return best[1:]


def expected_width(scale_bits, size):
    return max(1, scale_bits - size.bit_length() + 1)


def put_alphabet(out, bits, split, first, size):
    """`size` is None for a constant stream."""
    out.put(first, bits - split)
    if size is not None:
        out.put(size - 1, bits - split)


def table_bits(bits, split, first, scale_bits, f):
    out = BitWriter()
    out.put(scale_bits, 4)
    put_alphabet(out, bits, split, first, None if scale_bits == 0 else len(f))
    widths = [x.bit_length() for x in f[:-1]]
    put_widths(
        out,
        widths,
        expected_width(scale_bits, len(f)),
        lambda i: out.put(f[i] - (1 << (widths[i] - 1)), widths[i] - 1),
    )
    return out


def read_table(reader, bits):
    """(split, first, scale_bits, frequencies)"""
    split = max(0, bits - 12)
    scale_bits = reader.get(4)
    first = reader.get(bits - split)
    if scale_bits == 0:
        return split, first, 0, [1]
    size = reader.get(bits - split) + 1
    f = [0] * size

    def read_rest(i, width):
        f[i] = (1 << (width - 1)) + reader.get(width - 1)

    get_widths(reader, size - 1, expected_width(scale_bits, size), read_rest)
    f[-1] = (1 << scale_bits) - sum(f)
    return split, first, scale_bits, f
