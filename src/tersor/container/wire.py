"""Bytes of the index: bounded reading and writing of varints, bytes and strings (docs/format.md)."""

from __future__ import annotations

from tersor.errors import CorruptFileError, LimitError, UsageError

MAX_NAME = 1024  # bytes of UTF-8


class ByteWriter:
    """Appends the index's elements to a growing buffer."""

    def __init__(self) -> None:
        self.data = bytearray()

    def byte(self, value: int) -> None:
        """One byte, 0..255."""
        self.data.append(value)

    def varint(self, value: int) -> None:
        """Unsigned LEB128 of 0 <= value < 2^63."""
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def string(self, text: str, what: str) -> None:
        """UTF-8 ended by NUL. UsageError for NUL inside, more than 1 KiB, or what UTF-8 cannot hold."""
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{what} {text!r} is not valid Unicode; rename it") from error
        if len(raw) > MAX_NAME or b"\0" in raw:
            raise UsageError(f"{what} {text[:60]!r}: names may have at most {MAX_NAME} bytes and no NUL; rename it")
        self.data += raw + b"\0"


class ByteReader:
    """Reads them back; every read is checked against the end of the buffer. CorruptFileError otherwise."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def byte(self) -> int:
        """One byte, 0..255."""
        if self.position >= len(self.data):
            raise CorruptFileError("the index ends early")
        self.position += 1
        return self.data[self.position - 1]

    def column(self, count: int) -> bytes:
        """A column of `count` bytes."""
        if count > len(self.data) - self.position:
            raise CorruptFileError("the index ends early")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self, limit: int, what: str) -> int:
        """Unsigned LEB128. LimitError above `limit`."""
        if self.position < len(self.data):  # most numbers take one byte
            value = self.data[self.position]
            if value < 0x80 and value <= limit:
                self.position += 1
                return value
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > limit:
                    raise LimitError(f"{what} is {value}, above the limit of {limit}")
                return value
        raise CorruptFileError(f"{what}: a number of more than 9 bytes")

    def string(self, what: str) -> str:
        """UTF-8 up to NUL, at most 1 KiB."""
        end = self.data.find(b"\0", self.position, self.position + MAX_NAME + 1)
        if end < 0:
            raise CorruptFileError(f"{what}: no end within {MAX_NAME} bytes")
        raw = self.data[self.position : end]
        self.position = end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise CorruptFileError(f"{what}: not UTF-8") from error

    def end(self) -> None:
        """Checks that nothing is left."""
        if self.position != len(self.data):
            raise CorruptFileError(f"{len(self.data) - self.position} bytes too many in the index")
