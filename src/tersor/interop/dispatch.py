"""Which format a path is, or asks for, and the reader and writer of each."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tersor.errors import InputError, OutputError, UsageError
from tersor.files import atomic_file, atomic_folder
from tersor.interop.checkpoint import Checkpoint
from tersor.interop.gguf import MAGIC, GgufFile, write_gguf
from tersor.interop.huggingface import HuggingFaceFolder, write_huggingface
from tersor.interop.npz import NpzFile, write_npz
from tersor.interop.onnx import OnnxFile, write_onnx
from tersor.interop.raw import file_size, open_input
from tersor.interop.safetensors import HEADER_LIMIT, SafetensorsFile, write_safetensors
from tersor.interop.torch_file import TorchFile, write_torch
from tersor.interop.zipped import starts_as_zip

SUPPORTED = ".safetensors, torch files (.pt, .pth, .th, .bin, .ckpt), .npz, .onnx, .gguf, or a Hugging Face folder"
_TSR_MAGIC = b"\x89TSR"
_FORMATS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".th": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".npz": "npz",
    ".onnx": "onnx",
    ".gguf": "gguf",
}
_READERS: dict[str, Callable[[str | os.PathLike[str]], Checkpoint]] = {
    "safetensors": SafetensorsFile,
    "torch": TorchFile,
    "npz": NpzFile,
    "onnx": OnnxFile,
    "gguf": GgufFile,
    "huggingface": HuggingFaceFolder,
}
_WRITERS: dict[str, Callable[[Checkpoint, IO[bytes]], None]] = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "npz": write_npz,
    "onnx": write_onnx,
    "gguf": write_gguf,
}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens the checkpoint at `path`, of whichever format its content is.

    InputError if it is missing, empty, unreadable, damaged or of no supported kind; UnsafeFileError if it
    needs pickled code; MissingExtraError if a package is needed that is not installed.
    """
    return _READERS[_detect(path)](path)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that the name of an output asks for. UsageError if it says none."""
    text = os.fspath(path)
    suffix = Path(text).suffix.lower()
    if text.endswith(("/", os.sep)) or not suffix:
        return "huggingface"
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    raise UsageError(
        f"{path}: cannot tell the format from {suffix!r}; "
        f"name the output as one of {SUPPORTED}; end a folder's name with '/'"
    )


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], format: str | None = None, *, force: bool = False
) -> None:
    """Writes `checkpoint` to `path`, tensor by tensor; complete or not at all.

    format: one that `format_of` returns; None for what the name says. UsageError if `checkpoint` cannot be
    written in it, OutputError if `path` exists (unless `force`) or cannot be written.
    """
    name = format_of(path) if format is None else format
    if name not in _READERS:
        raise UsageError(f"format {name!r} is unknown; use one of {', '.join(sorted(_READERS))}")
    if name == "huggingface":
        _check_replaceable(Path(path))
        with atomic_folder(path, force=force) as folder:
            write_huggingface(checkpoint, folder)
        return
    with atomic_file(path, force=force) as file:
        _WRITERS[name](checkpoint, file)


def _check_replaceable(folder: Path) -> None:
    """OutputError for a folder that `force` must not replace: one that holds files, but no weights among them."""
    if folder.is_dir():
        names = [file.name for file in folder.iterdir()]
        if names and not any(name.endswith((".safetensors", ".bin")) for name in names):
            raise OutputError(f"{folder} holds files, but no checkpoint; it is not replaced. Name another folder")


def _detect(path: str | os.PathLike[str]) -> str:
    if os.path.isdir(path):
        return "huggingface"
    size = file_size(path)
    if size == 0:
        raise InputError(f"{path} is empty; fetch it again. Supported: {SUPPORTED}")
    with open_input(path) as file:
        start = file.read(512)
    suffix = Path(path).suffix.lower()
    if suffix == ".tsr" or start[:4] == _TSR_MAGIC:
        raise InputError(f"{path} is a compressed file of tersor already; use `tersor decompress` on it")
    if starts_as_zip(path):
        return _detect_zip(path)
    if start[:4] == MAGIC:
        return "gguf"
    # Before pickles: a header of 128 bytes starts with 0x80, too.
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= HEADER_LIMIT:
        return "safetensors"
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        return "torch"
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    raise InputError(f"{path} is no checkpoint of a known kind. Supported: {SUPPORTED}")


def _detect_zip(path: str | os.PathLike[str]) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise InputError(f"{path}: a damaged zip archive ({error}); fetch it again") from error
    if any(name.endswith(".npy") for name in names) or (not names and Path(path).suffix.lower() == ".npz"):
        return "npz"
    return "torch"
