"""Lengths inside blobs: LEB128, seven bits a byte, the lowest first, the top bit set in all but the last."""

from __future__ import annotations

from tersor.coding.methods import CorruptStreamError

_MAX_BYTES = 6  # 42 bits


def write_varint(value: int) -> bytes:
    """The code of `value` >= 0."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: memoryview) -> tuple[int, memoryview]:
    """The value at the head of `data` and what is behind it; raises CorruptStreamError if it does not end."""
    value = 0
    for i in range(min(len(data), _MAX_BYTES)):
        value |= (data[i] & 0x7F) << (7 * i)
        if data[i] < 0x80:
            return value, data[i + 1 :]
    raise CorruptStreamError("a length does not end")
