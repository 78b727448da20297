"""Attachments: bytes that travel with the tensors, stored as they are, by the text model, or by LZMA."""

from __future__ import annotations

import lzma

from tersor.coding import Method
from tersor.container.index import MAX_ATTACHMENT, METHOD_TEXT, METHOD_XZ
from tersor.container.text import compress_text, decompress_text
from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError

_TEXT_LIMIT = 1 << 14  # above, LZMA is faster and its far matches make up for the weaker model
_LZMA_MEMORY = 256 << 20  # bytes; preset 6 needs 9 MiB, preset 9 needs 65 MiB


def encode_attachment(data: bytes) -> tuple[bytes, int]:
    """(blob, method): the smallest way to store `data`. Coded blobs start with a varint, the size of `data`."""
    head = ByteWriter()
    head.varint(len(data))
    if len(data) <= _TEXT_LIMIT:
        coded, method = bytes(head.data) + compress_text(data), METHOD_TEXT
    else:
        packed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=6)
        coded, method = bytes(head.data) + packed, METHOD_XZ
    return (data, int(Method.RAW)) if len(data) <= len(coded) else (coded, method)


def decode_attachment(blob: bytes, method: int) -> bytes:
    """The data of a blob. CorruptFileError if it does not decode to the size that it declares."""
    if method == Method.RAW:
        return blob
    head = ByteReader(blob)
    size = head.varint(MAX_ATTACHMENT, "bytes of an attachment")
    body = blob[head.position :]
    if method == METHOD_TEXT:
        if size > _TEXT_LIMIT:
            raise CorruptFileError(f"a text attachment of {size} bytes; at most {_TEXT_LIMIT} are possible")
        return decompress_text(body, size)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    try:
        data = decoder.decompress(body, max_length=size + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise CorruptFileError(f"an attachment cannot be decompressed ({error})") from error
    if len(data) != size or not decoder.eof or decoder.unused_data:
        raise CorruptFileError(f"an attachment does not decompress to the {size} bytes that it declares")
    return data
