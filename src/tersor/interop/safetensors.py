"""safetensors files: a strict reader that seeks, and a writer that streams.

Layout: the header's length (uint64), the header (JSON, padded with spaces to 8 bytes), the tensors' bytes.

Attachments:
- "safetensors.metadata": the header's `__metadata__` object as JSON, if the file has one.
- "safetensors.header": the header's bytes, only if the writer would not make the same ones by itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import IO, Any

import torch
from torch import Tensor

from tersor.errors import InputError, UnsupportedTypeError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.raw import byte_count, check_shape, file_size, open_input, read_tensor, tensor_bytes

METADATA = "safetensors.metadata"
HEADER = "safetensors.header"
HEADER_LIMIT = 100_000_000

# In the order in which the reference library lays tensors out: last dtype first, then by name.
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_DTYPES: dict[str, torch.dtype] = {n: getattr(torch, t) for n, t in _NAMES.items() if hasattr(torch, t)}
_NAME_OF = {dtype: name for name, dtype in _DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES.values())}


class SafetensorsFile(Checkpoint):
    """A safetensors file, opened and validated. InputError (naming file and tensor) if it is damaged."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens the file and validates its header."""
        self._path = str(path)
        size = file_size(path)
        self._file = open_input(path)
        try:
            header = _read_header(self._file, size, self._path)
            tensors, metadata, self._offsets = parse_header(header, size - 8 - len(header), self._path)
        except BaseException:
            self._file.close()
            raise
        self._data = 8 + len(header)
        attachments = {}
        if metadata is not None:
            attachments[METADATA] = json.dumps(metadata, ensure_ascii=False).encode()
        if header != build_header(tensors, metadata):
            attachments[HEADER] = header
        self.info = CheckpointInfo("safetensors", tensors, attachments)
        self._infos = {info.name: info for info in tensors}

    def read(self, name: str) -> Tensor:
        """The tensor `name`; see `Checkpoint.read`."""
        info = self._infos[name]
        where = f"{self._path}: tensor {name!r}"
        return read_tensor(self._file, self._data + self._offsets[name], info.dtype, info.shape, where)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def write_safetensors(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """Writes `checkpoint` to `file`, tensor by tensor; tied tensors are written out each by itself.

    A safetensors source gives back its own bytes. Others are laid out as the reference library does, with the
    metadata {"format": "pt"} that Hugging Face transformers asks for. UnsupportedTypeError names a tensor
    whose dtype the format lacks.
    """
    for info in checkpoint.info.tensors:
        if info.dtype not in _NAME_OF:
            raise UnsupportedTypeError(
                f"tensor {info.name!r}: safetensors has no dtype for {info.dtype}; convert it, or write a .pt file"
            )
    tensors, header = _layout(checkpoint.info)
    file.write(struct.pack("<Q", len(header)))
    file.write(header)
    for info in tensors:
        file.write(tensor_bytes(checkpoint.read(info.name)))


def _layout(info: CheckpointInfo) -> tuple[Sequence[TensorInfo], bytes]:
    """The tensors in the order to write them, and the header."""
    if info.format != "safetensors":
        order = sorted(info.tensors, key=lambda t: (-_RANK[t.dtype], t.name))
        return order, build_header(order, _stored_metadata(info) or {"format": "pt"})
    if HEADER in info.attachments:
        header = info.attachments[HEADER]
        span = sum(t.nbytes for t in info.tensors)
        tensors, _, _ = parse_header(header, span, f"attachment {HEADER!r}")
        if {(t.name, t.dtype, t.shape) for t in tensors} == {(t.name, t.dtype, t.shape) for t in info.tensors}:
            return tensors, header
    return info.tensors, build_header(info.tensors, _stored_metadata(info))


def _stored_metadata(info: CheckpointInfo) -> dict[str, str] | None:
    if METADATA not in info.attachments:
        return None
    return _metadata(_parse_json(info.attachments[METADATA], f"attachment {METADATA!r}"), METADATA)


def build_header(tensors: Iterable[TensorInfo], metadata: dict[str, str] | None) -> bytes:
    """The header of `tensors` in this order, as the reference library writes it."""
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = metadata
    offset = 0
    for info in tensors:
        end = offset + info.nbytes
        header[info.name] = {
            "dtype": _NAME_OF[info.dtype],
            "shape": info.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def parse_header(
    header: bytes, span: int, where: str
) -> tuple[tuple[TensorInfo, ...], dict[str, str] | None, dict[str, int]]:
    """Tensors in the order of their bytes, metadata, and offsets by name.

    span: bytes of data that the file has; the tensors must fill it without holes or overlaps. InputError
    otherwise, naming `where`.
    """
    entries = _parse_json(header, where)
    metadata = _metadata(entries.pop("__metadata__"), where) if "__metadata__" in entries else None
    placed = [_entry(name, entry, f"{where}: tensor {name!r}") for name, entry in entries.items()]
    placed.sort(key=lambda item: item[1:])
    position = 0
    for info, begin, end in placed:
        if begin != position:
            fault = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise InputError(f"{where}: tensor {info.name!r} at bytes {begin}..{end} {fault}; the file is damaged")
        position = end
    if position != span:
        state = "truncated" if span < position else "followed by unknown bytes"
        raise InputError(f"{where}: {position} bytes of tensors expected, {span} found: the file is {state}")
    return tuple(p[0] for p in placed), metadata, {info.name: begin for info, begin, _ in placed}


def _read_header(file: IO[bytes], size: int, where: str) -> bytes:
    if size < 8:
        raise InputError(f"{where}: {size} bytes are too few for a safetensors file; fetch it again")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > HEADER_LIMIT:
        raise InputError(
            f"{where}: this is not a safetensors file (its header would have {length} bytes, above the format's "
            f"{HEADER_LIMIT}); name the file by its kind, or fetch it again"
        )
    if length > size - 8:
        raise InputError(f"{where}: the header declares {length} bytes, the file has {size}: it is truncated")
    return file.read(length)


def _parse_json(text: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("a name occurs twice")
        return keys

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate cannot be written again
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: the safetensors header is damaged ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: the safetensors header is not a JSON object")
    return value


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise InputError(f"{where}: __metadata__ must map strings to strings")
    return value


def _entry(name: str, entry: Any, where: str) -> tuple[TensorInfo, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: its header entry needs dtype, shape and data_offsets")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise UnsupportedTypeError(f"{where}: dtype {entry['dtype']!r} is not supported with torch {torch.__version__}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise InputError(f"{where}: shape {shape} and data_offsets {offsets} must be lists of sizes")
    check_shape(shape, where)
    if offsets[1] - offsets[0] != byte_count(shape, dtype):
        raise InputError(
            f"{where}: shape {shape} of {dtype} takes {byte_count(shape, dtype)} bytes, "
            f"data_offsets span {offsets[1] - offsets[0]}"
        )
    return TensorInfo(name, tuple(shape), dtype), offsets[0], offsets[1]


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)
