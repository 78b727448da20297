"""Bit streams as lists of bits: the twin of csrc/coding/bitio.hpp and width_code.hpp."""

from __future__ import annotations


class Corrupt(Exception):
    """The blob is malformed."""


class BitWriter:
    def __init__(self):
        self.bits = []

    def put(self, value, width):
        self.bits += [value >> i & 1 for i in range(width)]

    def put_exp_golomb(self, value):
        extra = (value + 1).bit_length() - 1
        self.bits += [0] * extra + [1]
        self.put(value + 1 - (1 << extra), extra)

    def to_bytes(self):
        padded = self.bits + [0] * (-len(self.bits) % 8)
        return bytes(sum(bit << i for i, bit in enumerate(padded[j : j + 8])) for j in range(0, len(padded), 8))


class BitReader:
    def __init__(self, data):
        self.bits = [byte >> i & 1 for byte in data for i in range(8)]
        self.position = 0

    def get(self, width):
        bits = self.bits[self.position : self.position + width]
        if len(bits) < width:
            raise Corrupt("the bits end too early")
        self.position += width
        return sum(bit << i for i, bit in enumerate(bits))

    def get_exp_golomb(self):
        extra = 0
        while self.get(1) == 0:
            extra += 1
        return (1 << extra) + self.get(extra) - 1

    def align(self):
        if self.get(-self.position % 8) != 0:
            raise Corrupt("the padding is not zero")


def put_widths(out, widths, guess, after=lambda i: None):
    """Writes `widths`; after(i) may write something behind width i if it is not zero."""
    previous = guess
    i = 0
    while i < len(widths):
        width = widths[i]
        if previous == 0:
            out.put_exp_golomb(width - 1)
        else:
            delta = width - previous
            out.put_exp_golomb(-2 * delta - 1 if delta < 0 else 2 * delta)
        previous = width
        i += 1
        if width > 0:
            after(i - 1)
            continue
        zeros = 0
        while i < len(widths) and widths[i] == 0:
            zeros += 1
            i += 1
        out.put_exp_golomb(zeros)


def get_widths(reader, count, guess, after=lambda i, width: None):
    """The inverse; after(i, width) reads what was written behind a width that is not zero."""
    widths = []
    previous = guess
    while len(widths) < count:
        code = reader.get_exp_golomb()
        delta = code // 2 if code % 2 == 0 else -(code + 1) // 2
        width = code + 1 if previous == 0 else previous + delta
        previous = width
        if width > 0:
            widths.append(width)
            after(len(widths) - 1, width)
        else:
            widths += [0] * (1 + reader.get_exp_golomb())
    return widths
