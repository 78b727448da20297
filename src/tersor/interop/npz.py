"""NumPy .npz archives: one .npy member an array. No attachments."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from os import PathLike
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tersor.errors import InputError, TersorWarning, UnsupportedTypeError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.raw import (
    byte_count,
    check_shape,
    file_size,
    known_dtypes,
    new_bytes,
    open_input,
    read_into,
    tensor_bytes,
    tensor_of_bytes,
)
from tersor.interop.zipped import open_member

_SUFFIX = ".npy"
_HEADER_LIMIT = 1 << 20
_DEFLATE_RATIO = 1032  # the most that deflate can shrink, with bzip2 and lzma refused
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, LookupError, struct.error)
_COPY_ELEMENTS = 1 << 22

_NUMPY_OF: dict[torch.dtype, np.dtype[Any]] = {
    getattr(torch, name): np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "complex128", "complex64", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}
_TORCH_OF = {dtype: name for name, dtype in _NUMPY_OF.items()}
_WIDENED = {
    dtype: torch.float32
    for dtype in known_dtypes(
        *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    )
} | {torch.complex32: torch.complex64}


class NpzFile(Checkpoint):
    """An .npz file. Object, structured, text and extended-precision arrays are refused by name."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens the archive and checks every array's header."""
        self._path = str(path)
        file_size(path)
        self._file = open_input(path)
        try:
            self._archive = zipfile.ZipFile(self._file)
            infos = [self._inspect(member) for member in self._archive.infolist() if not member.is_dir()]
        except _DAMAGE as error:
            self._file.close()
            raise InputError(f"{path}: a damaged .npz file ({error}); fetch or save it again") from error
        except BaseException:
            self._file.close()
            raise
        if len({info.name for info in infos}) != len(infos):
            self._file.close()
            raise InputError(f"{path}: two arrays have the same name")
        self.info = CheckpointInfo("npz", tuple(infos))

    def _inspect(self, member: zipfile.ZipInfo) -> TensorInfo:
        name = member.filename.removesuffix(_SUFFIX)
        where = f"{self._path}: array {name!r}"
        if not member.filename.endswith(_SUFFIX):
            raise UnsupportedTypeError(f"{self._path}: {member.filename!r} is not an array; keep only .npy members")
        if member.compress_type not in _METHODS or member.flag_bits & 1:
            raise UnsupportedTypeError(f"{where}: compressed in a way that NumPy never writes; save it with np.savez")
        with self._archive.open(member) as file:
            dtype, shape, _, begin = _read_header(file, where)
        size = byte_count(shape, _TORCH_OF[dtype.newbyteorder("=")])
        if member.file_size != begin + size or size > member.compress_size * _DEFLATE_RATIO + _HEADER_LIMIT:
            raise InputError(
                f"{where}: shape {shape} of {dtype} needs {begin + size} bytes, "
                f"the archive declares {member.file_size} "
                f"({member.compress_size} compressed); the file is damaged"
            )
        return TensorInfo(name, shape, _TORCH_OF[dtype.newbyteorder("=")])

    def read(self, name: str) -> Tensor:
        """The array `name`, in native byte order and C order; see `Checkpoint.read`."""
        where = f"{self._path}: array {name!r}"
        member = self._archive.getinfo(name + _SUFFIX)
        try:
            with self._archive.open(member) as file:
                dtype, shape, fortran, _ = _read_header(file, where)
                native = dtype.newbyteorder("=")
                data = new_bytes(byte_count(shape, _TORCH_OF[native]))
                read_into(file, data, where)
                if file.read(1):
                    raise InputError(f"{where}: more bytes than the archive declares; the file is damaged")
        except _DAMAGE as error:
            raise InputError(f"{where}: damaged ({error}); fetch or save the file again") from error
        if not dtype.isnative:
            data.numpy().view(dtype).byteswap(inplace=True)
        if not fortran:
            return tensor_of_bytes(data, _TORCH_OF[native], shape)
        reversed_axes = tensor_of_bytes(data, _TORCH_OF[native], shape[::-1])
        return reversed_axes.permute(tuple(range(len(shape)))[::-1]).contiguous()

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()
        self._file.close()


def write_npz(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """Writes `checkpoint` to `file`, uncompressed, array by array, as `np.load` reads it.

    dtypes that NumPy lacks (bfloat16, fp8, complex32) are widened without loss to float32 (complex64); one
    TersorWarning names them. Tied tensors are written out each by itself.
    """
    widened = [info.name for info in checkpoint.info.tensors if info.dtype in _WIDENED]
    if widened:
        warnings.warn(
            f"NumPy has no such dtype: widened exactly to float32: {', '.join(widened)}",
            TersorWarning,
            stacklevel=2,
        )
    with zipfile.ZipFile(file, "w") as archive:
        for info in checkpoint.info.tensors:
            dtype = _WIDENED.get(info.dtype, info.dtype)
            header = _header(_NUMPY_OF[dtype], info.shape)
            size = len(header) + byte_count(info.shape, dtype)
            with open_member(archive, info.name + _SUFFIX, size) as member:
                member.write(header)
                _write_values(checkpoint.read(info.name).reshape(-1), dtype, member)


def _write_values(values: Tensor, dtype: torch.dtype, member: IO[bytes]) -> None:
    """Writes the vector `values` as `dtype`, converted piece by piece."""
    for begin in range(0, values.numel(), _COPY_ELEMENTS):
        member.write(tensor_bytes(values[begin : begin + _COPY_ELEMENTS].to(dtype)))


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _read_header(file: IO[bytes], where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """dtype (in the file's byte order), shape, whether in Fortran order, and where the values begin."""
    start = file.read(12)
    if len(start) < 12 or not start.startswith(np.lib.format.MAGIC_PREFIX) or start[6] not in (1, 2, 3):
        raise InputError(f"{where}: not a NumPy array; the file is damaged")
    if start[6] == 1:
        (length,) = struct.unpack("<H", start[8:10])
        begin = 10
    else:
        (length,) = struct.unpack("<I", start[8:12])
        begin = 12
    if length > _HEADER_LIMIT:
        raise InputError(f"{where}: a header of {length} bytes is larger than any that NumPy writes")
    text = start[begin:] + file.read(length - (12 - begin))
    parse = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    prefix = struct.pack("<H" if start[6] == 1 else "<I", length)
    try:
        shape, fortran, dtype = parse(io.BytesIO(prefix + text), max_header_size=_HEADER_LIMIT)
    except (
        ValueError,
        TypeError,
        LookupError,
        SyntaxError,
        TokenError,
        RecursionError,
        MemoryError,
    ) as error:
        raise InputError(f"{where}: its header is damaged ({error})") from error
    if dtype.hasobject:
        raise UnsupportedTypeError(f"{where}: an object array holds pickled code; save it as numbers")
    if dtype.newbyteorder("=") not in _TORCH_OF:
        raise UnsupportedTypeError(f"{where}: dtype {dtype} is not supported; save it as plain numbers")
    check_shape(shape, where)
    return dtype, shape, fortran, begin + length
