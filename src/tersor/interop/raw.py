"""Tensors as bytes: little-endian, C-contiguous, read and written without a second copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from typing import IO, Any

import torch
from torch import Tensor

from tersor.errors import InputError, UnsupportedTypeError

_COPY_BYTES = 4 << 20  # of one piece: what is resident twice while it is copied
_MAP_BYTES = 1 << 20  # vectors from this size on are maps
_MADV_DONTNEED = 4


def new_bytes(count: int) -> Tensor:
    """A uint8 vector of `count` bytes of any content, whose memory returns to the system when it is dropped.

    The C library keeps freed blocks of many megabytes for later, and they do not fit the next tensor: large
    vectors get a map of their own.
    """
    if count < _MAP_BYTES or sys.platform == "win32":
        return torch.empty(count, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of `tensor` (any shape, strides and dtype of whole bytes), C-contiguous.

    The view shares the tensor's memory where it is contiguous already.
    """
    if tensor.numel() == 0:
        return memoryview(b"")  # its strides may be anything, and torch refuses to view some as bytes
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy())  # type: ignore[arg-type]


def tensor_of_bytes(data: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The uint8 vector `data` as a tensor of `dtype` and `shape`; shares memory."""
    return data.view(dtype).reshape(tuple(shape))


def read_tensor(file: IO[bytes], offset: int, dtype: torch.dtype, shape: Sequence[int], where: str) -> Tensor:
    """The tensor of `shape` whose bytes begin at `offset` of `file`; the caller knows that they are there.

    InputError naming `where` if the file ends early or cannot be read.
    """
    data = new_bytes(byte_count(shape, dtype))
    try:
        file.seek(offset)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    read_into(file, data, where)
    return tensor_of_bytes(data, dtype, shape)


def read_into(file: IO[bytes], data: Tensor, where: str) -> None:
    """Fills the uint8 vector `data` from `file`. InputError naming `where` if the file ends before."""
    view = memoryview(data.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        try:
            count = file.readinto(view[done : done + _COPY_BYTES])  # type: ignore[attr-defined]
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror})") from error
        if not count:
            raise InputError(
                f"{where}: the file ends after {done} of {len(view)} bytes; it is truncated, fetch it again"
            )
        done += count


def byte_count(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a tensor of `shape` and `dtype`."""
    count = dtype.itemsize
    for d in shape:
        count *= d
    return count


def check_shape(shape: Sequence[int], where: str) -> None:
    """InputError naming `where` unless a tensor may have this shape: sizes >= 0 whose strides fit 64 bits."""
    span = 1
    for d in shape:
        span *= max(d, 1)
    if any(d < 0 for d in shape) or span >= 2**63:
        raise InputError(f"{where}: no tensor can have the shape {tuple(shape)}; the file is damaged")


def copy_mapped(tensor: Tensor) -> Tensor:
    """A contiguous copy of `tensor`, which lies in a private, unmodified map of a file; gives its pages back.

    Copying in pieces keeps resident memory near one copy instead of two.
    """
    copy = tensor_of_bytes(new_bytes(byte_count(tensor.shape, tensor.dtype)), tensor.dtype, tensor.shape)
    if not tensor.is_contiguous():
        copy.copy_(tensor)
        storage = tensor.untyped_storage()
        _release(storage.data_ptr(), storage.nbytes())
        return copy
    source, target = tensor.reshape(-1), copy.reshape(-1)
    step = _COPY_BYTES // tensor.dtype.itemsize
    for begin in range(0, source.numel(), step):
        piece = source[begin : begin + step]
        target[begin : begin + step] = piece
        _release(piece.data_ptr(), piece.numel() * piece.dtype.itemsize)
    return copy


def _release(address: int, count: int) -> None:
    """Tells the kernel that the whole pages inside [address, address + count) are not needed resident.

    The pages belong to a file's map and were not written to, so they come back from the file when touched.
    """
    if _madvise is None:
        return
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + count) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        _madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(_MADV_DONTNEED))


def _find_madvise() -> Any:
    """The C library's madvise, where the system is one on which pages may be dropped this way; else None."""
    return ctypes.CDLL(None).madvise if sys.platform == "linux" else None


_madvise = _find_madvise()


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of the file at `path`. InputError if it is missing or not a file."""
    try:
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder, not a file")
        return os.stat(path).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """`path` opened for reading. InputError if it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error


def check_plain(tensor: Tensor, where: str) -> None:
    """UnsupportedTypeError naming `where` unless `tensor` is dense, unquantized and has values."""
    check_made(tensor, where)
    remedy = "convert it to a dense tensor first, or leave it out"
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise UnsupportedTypeError(f"{where}: tensors of class {type(tensor).__name__} are not supported; {remedy}")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise UnsupportedTypeError(f"{where}: sparse and nested tensors ({tensor.layout}) are not supported; {remedy}")
    if tensor.is_quantized:
        raise UnsupportedTypeError(f"{where}: a quantized tensor ({tensor.dtype}); call .dequantize() on it first")
    if tensor.device.type == "meta":
        raise UnsupportedTypeError(f"{where}: a tensor on the meta device has no values; load the weights first")
    if tensor.dtype not in _PLAIN_DTYPES:
        raise UnsupportedTypeError(f"{where}: dtype {tensor.dtype} is not supported; {remedy}")


def check_made(tensor: Tensor, where: str) -> None:
    """UnsupportedTypeError naming `where` for what a lazy module will make a tensor of when it is called."""
    if torch.nn.parameter.is_lazy(tensor):
        raise UnsupportedTypeError(
            f"{where}: it has no values yet, as its module is lazy; call the model once with a batch first"
        )


def known_dtypes(*names: str) -> tuple[torch.dtype, ...]:
    """The torch dtypes of these names that the installed torch has."""
    return tuple(getattr(torch, name) for name in names if hasattr(torch, name))


_PLAIN_DTYPES = frozenset(
    known_dtypes(
        *("float64", "float32", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
        *("complex128", "complex64", "complex32"),
    )
)
