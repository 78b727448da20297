"""Zip members with the same bytes at every run: uncompressed, without timestamps, aligned if asked."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import IO

from tersor.interop.raw import open_input

_PADDING_ID = 0x4246  # the extra field that torch pads with
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
_ZIP64_LIMIT = (1 << 31) - 1


def starts_as_zip(path: str | os.PathLike[str]) -> bool:
    """Whether the file at `path` begins as a zip archive does, empty ones included."""
    with open_input(path) as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def open_member(archive: zipfile.ZipFile, name: str, size: int, align: int = 1) -> IO[bytes]:
    """A new member `name` of `archive` (opened for writing) that will hold `size` bytes.

    align: the member's data begin at a multiple of this many bytes of the file, so that maps are aligned.
    """
    info = zipfile.ZipInfo(name)
    info.file_size = size
    zip64 = size * 1.05 > _ZIP64_LIMIT
    if align > 1:
        assert archive.fp is not None, "the archive is open"
        fixed = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + 4 + (_ZIP64_EXTRA if zip64 else 0)
        padding = -fixed % align
        info.extra = struct.pack("<HH", _PADDING_ID, padding) + b"\0" * padding
    return archive.open(info, "w", force_zip64=zip64)
