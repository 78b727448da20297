"""Data that tests of this room share."""

from __future__ import annotations

import numpy as np

from tersor.layers import Geometry

WIDTHS = {np.uint8: range(1, 9), np.int8: range(1, 9), np.int16: range(1, 17)}
SHAPES = ("uniform", "normal", "two", "constant", "alternating", "rare")


def limits(dtype, bits):
    """(lowest, highest) symbol."""
    if np.dtype(dtype).kind == "u":
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def symbols_of(shape, dtype, bits, count, seed=0):
    """`count` symbols of a distribution named in SHAPES."""
    rng = np.random.default_rng(seed)
    low, high = limits(dtype, bits)
    if shape == "uniform":
        values = rng.integers(low, high + 1, count)
    elif shape == "normal":
        middle = (low + high + 1) / 2
        values = np.clip(np.round(rng.normal(middle, max(0.4, (high - low) / 8), count)), low, high)
    elif shape == "two":
        values = rng.choice([low, high], count)
    elif shape == "constant":
        values = np.full(count, high)
    elif shape == "alternating":
        values = np.where(np.arange(count) % 2, low, high)
    else:
        values = np.where(rng.random(count) < 0.002, low, high)
    return values.astype(dtype)


def geometry_of(count, kernel=1):
    """A matrix of `count` elements, as square as this kernel lets it be; one row if it does not divide."""
    for rows in range(int(count**0.5), 1, -1):
        if count % (rows * kernel) == 0:
            return Geometry(rows, count // (rows * kernel), kernel)
    return Geometry(1, count, 1)


def damaged(blob, rng):
    """The blob with a flipped bit, cut, longer, or replaced by noise."""
    data = bytearray(blob)
    choice = rng.integers(4)
    if choice == 0 and data:
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif choice == 1:
        del data[int(rng.integers(len(data) + 1)) :]
    elif choice == 2:
        data += rng.bytes(int(rng.integers(1, 40)))
    else:
        start = int(rng.integers(len(data) + 1))
        data[start:] = rng.bytes(len(data) - start)
    return bytes(data)


def guarded(count, dtype):
    """(array between guards, function that fails if a guard was written to)."""
    guard = 64
    whole = np.full(count + 2 * guard, 0x5A, dtype)

    def check():
        assert np.all(whole[:guard] == 0x5A) and np.all(whole[guard + count :] == 0x5A)

    return whole[guard : guard + count], check
