"""The two checksums of a .tsr file: XXH3 finds accidents in a chunk, BLAKE3 names the whole content."""

from __future__ import annotations

from typing import Any

from tersor._native import core

CONTENT_ID_BYTES = 16


def xxh3_64(data: Any) -> int:
    """XXH3 of a contiguous buffer, seed 0: an unsigned integer of 64 bits.

    data: bytes, bytearray, memoryview or numpy array. Raises ValueError or BufferError if not contiguous,
    TypeError if it is not a buffer. Not cryptographic: anyone can make another input of the same value.
    """
    value: int = core.xxh3_64(data)
    return value


class ContentId:
    """BLAKE3 of the bytes seen so far, default hash mode, cut to 128 bits.

    Cryptographic: equal ids mean equal content. One object belongs to one thread.
    """

    def __init__(self) -> None:
        """Of no bytes yet."""
        self._hasher = core.Blake3()

    def update(self, data: Any) -> None:
        """Appends a contiguous buffer (bytes, bytearray, memoryview or numpy array). Raises as `xxh3_64`."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """The id of all bytes so far, 16 bytes. Updates may follow."""
        digest: bytes = self._hasher.digest(CONTENT_ID_BYTES)
        return digest
