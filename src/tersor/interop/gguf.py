"""GGUF files: quantized tensors are read as float32, everything else as it is.

Those of the types Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 are also there as the grids that they are (`read_grid`).

Attachment: "gguf.header": the number of metadata entries (uint64) and their bytes, as they stand in the file.
Writing turns quantized tensors into F32 ones, and `general.file_type` says so.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from os import PathLike
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.errors import InputError, TersorWarning, UnsupportedTypeError, UsageError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, Grid, TensorInfo
from tersor.interop.extras import require
from tersor.interop.gguf_grids import BLOCK, GRID_BLOCKS, unpack_blocks
from tersor.interop.raw import (
    byte_count,
    check_shape,
    file_size,
    new_bytes,
    open_input,
    read_into,
    read_tensor,
    tensor_bytes,
    tensor_of_bytes,
)
from tersor.layers import matrix_shape

HEADER = "gguf.header"
MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # the same layout; 3 allows big-endian files besides
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 8
_DEEPEST_ARRAY = 8
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALL_F32, _MOSTLY_F16, _MOSTLY_BF16 = 0, 1, 32
_CHUNK_ELEMENTS = 1 << 20

_PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
_TYPE_OF = {dtype: name for name, dtype in _PLAIN.items()}


class _Place(NamedTuple):
    """Where a tensor's bytes are and how to read them. type: a GGMLQuantizationType."""

    type: Any
    begin: int
    size: int


class GgufFile(Checkpoint):
    """A GGUF file of version 2 or 3, little-endian. The note of a quantized tensor is its type ("Q4_K")."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Parses and validates the header."""
        self._path = str(path)
        self._gguf = require("gguf", "gguf")
        size = file_size(path)
        self._file = open_input(path)
        try:
            cursor = _Cursor(self._file, size, self._path)
            magic, version, count = cursor.unpack("<4sIQ")
            if magic != MAGIC or version not in _VERSIONS:
                raise InputError(f"{path}: GGUF version {version} (or byte order) is not supported; convert the file")
            entries = _parse_entries(cursor)
            cursor.seek(16)
            header = cursor.take(entries.end - 16)
            self._places: dict[str, _Place] = {}
            infos = [self._tensor(cursor) for _ in range(cursor.plausible(count, 24))]
            self._place(-(-cursor.position // entries.alignment) * entries.alignment, entries.alignment, size)
        except BaseException:
            self._file.close()
            raise
        self.info = CheckpointInfo("gguf", tuple(infos), {HEADER: header})
        self._infos = {info.name: info for info in infos}

    def _tensor(self, cursor: _Cursor) -> TensorInfo:
        """Reads one tensor's entry of the header."""
        name = cursor.string()
        where = self._where(name)
        if name in self._places:
            raise InputError(f"{where} occurs twice")
        (rank,) = cursor.unpack("<I")
        if rank > _MOST_DIMENSIONS:
            raise InputError(f"{where}: {rank} dimensions; the file is damaged")
        shape = tuple(reversed(cursor.unpack(f"<{rank}Q")))
        code, begin = cursor.unpack("<IQ")
        try:
            kind = self._gguf.GGMLQuantizationType(code)
            block, block_bytes = self._gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise UnsupportedTypeError(f"{where}: quantization type {code} is not known; update gguf") from error
        check_shape(shape, where)
        elements = byte_count(shape, torch.uint8)
        if (shape[-1] if shape else 1) % block:
            raise InputError(f"{where}: shape {shape} does not fit blocks of {block}; the file is damaged")
        dtype = _PLAIN.get(kind.name)
        if dtype is None:
            self._check_dequantizes(kind, block_bytes, where)
        self._places[name] = _Place(kind, begin, elements // block * block_bytes)
        return TensorInfo(name, shape, dtype or torch.float32, note=None if dtype else kind.name)

    def _check_dequantizes(self, kind: Any, block_bytes: int, where: str) -> None:
        try:
            self._gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError as error:
            raise UnsupportedTypeError(f"{where}: the package gguf cannot dequantize {kind.name}; update it") from error

    def _place(self, data: int, alignment: int, size: int) -> None:
        """Makes the tensors' offsets absolute, checked against the file."""
        last_end = data
        for name, place in sorted(self._places.items(), key=lambda item: item[1].begin):
            begin = data + place.begin
            where = self._where(name)
            if place.begin % alignment or begin < last_end:
                raise InputError(f"{where}: begins at byte {begin}, inside another one or unaligned")
            last_end = begin + place.size
            if last_end > size:
                raise InputError(f"{where}: ends at byte {last_end} of {size}: the file is truncated, fetch it again")
            self._places[name] = place._replace(begin=begin)

    def read(self, name: str) -> Tensor:
        """The tensor `name`, dequantized; see `Checkpoint.read`."""
        info, place = self._infos[name], self._places[name]
        if info.note is None:
            return read_tensor(self._file, place.begin, info.dtype, info.shape, self._where(name))
        values = tensor_of_bytes(new_bytes(info.nbytes), info.dtype, info.shape)
        flat = values.reshape(-1).numpy()
        done = 0
        for blocks in self._blocks(name):
            part = self._gguf.quants.dequantize(blocks.reshape(1, -1), place.type).reshape(-1)
            flat[done : done + part.size] = part
            done += part.size
        return values

    def read_grid(self, name: str) -> Grid | None:
        """The grid of a tensor of one of the types of `GRID_BLOCKS`; see `Checkpoint.read_grid`."""
        info = self._infos[name]
        kind = None if info.note is None else GRID_BLOCKS.get(info.note)
        if kind is None:
            return None
        rows, length = matrix_shape(info.shape)
        codes = tensor_of_bytes(new_bytes(rows * length), torch.int8, (rows * length // BLOCK, BLOCK))
        steps = torch.empty((2 if kind.offset else 1, codes.shape[0]))
        done = 0
        for blocks in self._blocks(name):
            part = slice(done, done + len(blocks))
            scale, *offset = steps[:, part].numpy()
            unpack_blocks(blocks, kind, codes[part].numpy(), scale, offset[0] if offset else None)
            done += len(blocks)
        if not bool(steps.isfinite().all()):
            return None
        scales, *offsets = steps.reshape(len(steps), rows, length // BLOCK)
        return Grid(codes.reshape(info.shape), kind.bits, scales, offsets[0] if offsets else None, BLOCK)

    def _blocks(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The blocks of a quantized tensor, (blocks, bytes of a block), about a million weights at a time."""
        place = self._places[name]
        block, block_bytes = self._gguf.GGML_QUANT_SIZES[place.type]
        count = place.size // block_bytes
        step = max(_CHUNK_ELEMENTS // block, 1)
        self._file.seek(place.begin)
        for first in range(0, count, step):
            data = new_bytes(min(step, count - first) * block_bytes)
            read_into(self._file, data, self._where(name))
            yield data.numpy().reshape(-1, block_bytes)

    def _where(self, name: str) -> str:
        return f"{self._path}: tensor {name!r}"

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def write_gguf(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """Writes `checkpoint`, which came from a GGUF file, with that file's metadata, tensor by tensor.

    Tensors that were quantized become F32; a TersorWarning says so. UsageError if the source was of another
    format.
    """
    info = checkpoint.info
    if HEADER not in info.attachments:
        raise UsageError(f"GGUF needs the metadata of a GGUF source, this one is {info.format}; write .safetensors")
    gguf = require("gguf", "gguf")
    header = bytearray(info.attachments[HEADER])
    entries = _parse_entries(_Cursor(io.BytesIO(header), len(header), f"attachment {HEADER!r}"))
    if entries.end != len(header):
        raise InputError(f"attachment {HEADER!r}: bytes after the last entry")
    if entries.file_type is not None:
        position, code = entries.file_type
        if code not in (_ALL_F32, _MOSTLY_F16, _MOSTLY_BF16):
            header[position : position + 4] = struct.pack("<I", _ALL_F32)
            warnings.warn(
                "the quantized tensors of the GGUF source are written as F32, general.file_type as ALL_F32",
                TersorWarning,
                stacklevel=3,
            )
    table = bytearray()
    offset = 0
    for t in info.tensors:
        if t.dtype not in _TYPE_OF:
            raise UnsupportedTypeError(f"tensor {t.name!r}: GGUF has no type for {t.dtype}; write .safetensors")
        name = t.name.encode()
        kind = gguf.GGMLQuantizationType[_TYPE_OF[t.dtype]]
        table += struct.pack(f"<Q{len(name)}sI{len(t.shape)}Q", len(name), name, len(t.shape), *reversed(t.shape))
        table += struct.pack("<IQ", int(kind), offset)
        offset += -(-t.nbytes // entries.alignment) * entries.alignment
    start = struct.pack("<4sIQ", MAGIC, _VERSIONS[-1], len(info.tensors)) + bytes(header) + bytes(table)
    file.write(start + bytes(-len(start) % entries.alignment))
    for t in info.tensors:
        file.write(tensor_bytes(checkpoint.read(t.name)))
        file.write(bytes(-t.nbytes % entries.alignment))


class _Cursor:
    """Reads a header of hostile bytes: no read goes beyond `size`."""

    def __init__(self, file: IO[bytes], size: int, where: str) -> None:
        self.position = 0
        self._file = file
        self._size = size
        self._where = where

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def take(self, count: int) -> bytes:
        data = self._file.read(self.plausible(count, 1))
        self.position += len(data)
        if len(data) != count:
            raise InputError(f"{self._where}: the GGUF header is truncated")
        return data

    def plausible(self, count: int, size: int) -> int:
        """`count`, if that many items of `size` bytes can follow."""
        if count * size > self._size - self.position:
            raise InputError(f"{self._where}: the GGUF header declares more than the file holds; it is damaged")
        return count

    def unpack(self, format: str) -> tuple[Any, ...]:
        return struct.unpack(format, self.take(struct.calcsize(format)))

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self._where}: a name in the GGUF header is not UTF-8; the file is damaged") from error

    def skip_value(self, kind: int, depth: int = 0) -> None:
        """Moves behind a metadata value of type `kind`."""
        if kind in _SIZES:
            self.take(_SIZES[kind])
        elif kind == _STRING:
            self.take(self.unpack("<Q")[0])
        elif kind == _ARRAY and depth < _DEEPEST_ARRAY:
            inner, count = self.unpack("<IQ")
            if inner in _SIZES:
                self.take(self.plausible(count, _SIZES[inner]) * _SIZES[inner])
            else:
                for _ in range(self.plausible(count, 8)):
                    self.skip_value(inner, depth + 1)
        else:
            raise InputError(f"{self._where}: metadata of unknown type {kind}; the file is damaged")


class _Entries(NamedTuple):
    """What is needed of the metadata. file_type: the position and value of general.file_type."""

    end: int
    alignment: int
    file_type: tuple[int, int] | None


def _parse_entries(cursor: _Cursor) -> _Entries:
    """Walks over the metadata: their number, then key, type and value of each."""
    alignment = _DEFAULT_ALIGNMENT
    file_type = None
    (count,) = cursor.unpack("<Q")
    for _ in range(cursor.plausible(count, 13)):
        key = cursor.string()
        (kind,) = cursor.unpack("<I")
        if kind == _UINT32 and key in ("general.alignment", "general.file_type"):
            position = cursor.position
            (value,) = cursor.unpack("<I")
            if key == "general.file_type":
                file_type = (position, value)
            elif value == 0 or value % 8 or value > 1 << 20:
                raise InputError(f"general.alignment is {value}; the GGUF header is damaged")
            else:
                alignment = value
        else:
            cursor.skip_value(kind)
    return _Entries(cursor.position, alignment, file_type)
