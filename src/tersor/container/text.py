"""The index of a .tsr file as text: tensor names and columns of small bytes.

Names are NUL-terminated UTF-8 strings, in the order of the file. Contexts are mixed (Mahoney 2005) and the
bits coded arithmetically. The model knows the names that PyTorch networks usually have, and that lists of
names count, so that a usual list costs a few bytes.
"""

from __future__ import annotations

from tersor._native import core
from tersor.errors import CorruptFileError


def compress_text(data: bytes) -> bytes:
    """The shortest blob that `decompress_text` turns back into `data`. The empty text has the empty blob.

    Linear in `len(data)`, about a microsecond a byte after some milliseconds of preparation.
    """
    blob: bytes = core.compress_text(data)
    return blob


def decompress_text(blob: bytes, size: int) -> bytes:
    """The text of `size` bytes that `compress_text` turned into `blob`.

    `size` is what the caller has checked against its limits: so much memory is taken, and time in proportion,
    whatever `blob` holds. Raises CorruptFileError if `blob` is not what a text of that size compresses to; a
    damaged blob may also give another text, which the caller's checksum must find.
    """
    text: bytes | None = core.decompress_text(blob, size)
    if text is None:
        raise CorruptFileError(
            f"index: a compressed text of {len(blob)} bytes does not decode to {size} bytes; "
            "the file is damaged, get it again"
        )
    return text
