"""torch files (.pt, .pth, .th, .bin, .ckpt): zip and legacy ones; never with pickled code.

Attachment: "torch.structure", the nest around the tensors; see `torch_structure`.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from os import PathLike
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from tersor.errors import InputError, TersorWarning, UnsafeFileError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.memory import detect_ties
from tersor.interop.raw import byte_count, check_plain, copy_mapped, file_size, open_input, tensor_bytes
from tersor.interop.torch_structure import Leaf, flatten, unflatten
from tersor.interop.zipped import open_member, starts_as_zip

STRUCTURE = "torch.structure"
_ALIGNMENT = 64
_TAR_MAGIC = b"ustar"
_EXPANDED_LIMIT = 1 << 30  # bytes of a tensor that repeats a smaller storage through strides of zero
_REMEDY = (
    "tersor never runs it. If you trust the file, load it yourself with torch.load(path, weights_only=False) "
    "and save model.state_dict() with torch.save or safetensors"
)
_DAMAGE = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, AssertionError),
    *(ArithmeticError, MemoryError, ImportError, zipfile.BadZipFile, tarfile.TarError),
)

_STORAGES = {
    torch.float64: "DoubleStorage",
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.int16: "ShortStorage",
    torch.int8: "CharStorage",
    torch.uint8: "ByteStorage",
    torch.bool: "BoolStorage",
    torch.complex64: "ComplexFloatStorage",
    torch.complex128: "ComplexDoubleStorage",
}


class TorchFile(Checkpoint):
    """A torch file. UnsafeFileError if it asks for pickled code, InputError if it is damaged."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Loads the nest; the tensors of a zip file stay on disk until they are read."""
        self._path = str(path)
        file_size(path)
        is_archive = starts_as_zip(path)
        # torch maps by name only, and takes any file of that name for one of the safetensors library.
        self._mapped = is_archive and not self._path.endswith(".safetensors")
        if is_archive:
            _check_archive(self._path)
        root = _load(self._path, self._mapped)
        self._tensors, structure = flatten(root, self._path)
        for name, tensor in self._tensors.items():
            self._check(tensor, f"{path}: tensor {name!r}")
        ties = detect_ties(self._tensors.items())
        infos = (TensorInfo(name, tuple(t.shape), t.dtype, ties.get(name)) for name, t in self._tensors.items())
        self.info = CheckpointInfo("torch", tuple(infos), {STRUCTURE: structure})

    @staticmethod
    def _check(tensor: Tensor, where: str) -> None:
        check_plain(tensor, where)
        size = byte_count(tensor.shape, tensor.dtype)
        if size > max(tensor.untyped_storage().nbytes(), _EXPANDED_LIMIT):
            raise InputError(f"{where}: {size} bytes made of {tensor.untyped_storage().nbytes()} stored ones; refused")

    def read(self, name: str) -> Tensor:
        """The tensor `name`; see `Checkpoint.read`."""
        tensor = self._tensors[name].detach().resolve_conj().resolve_neg()
        return copy_mapped(tensor) if self._mapped else tensor.clone(memory_format=torch.contiguous_format)

    def close(self) -> None:
        """Drops the map of the file, or the tensors of a legacy file."""
        self._tensors = {}


def write_torch(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """Writes `checkpoint` as `torch.save` does, tensor by tensor; `torch.load(weights_only=True)` reads it.

    A torch source gives back its nest, any other a plain dict name -> tensor. Tied tensors share storage.
    """
    infos = checkpoint.info.tensors
    root = _nest(checkpoint.info)
    keys: dict[str, int] = {}  # name of the tensor that owns a storage -> the storage's number
    for info in infos:
        if info.tied_to is None:
            keys[info.name] = len(keys)
    buffer = io.BytesIO()
    _Pickler(buffer, infos, keys).dump(root)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", buffer.getvalue()), ("byteorder", b"little")):
            _write_member(archive, name, data)
        for owner, key in keys.items():
            _write_member(archive, f"data/{key}", tensor_bytes(checkpoint.read(owner)))
        _write_member(archive, "version", b"3\n")


def _write_member(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    with open_member(archive, f"archive/{name}", len(data), _ALIGNMENT) as member:
        member.write(data)


def _nest(info: CheckpointInfo) -> Any:
    """What to pickle, with a `Leaf` for each tensor."""
    names = [t.name for t in info.tensors]
    if STRUCTURE in info.attachments:
        root = unflatten(info.attachments[STRUCTURE], names, f"attachment {STRUCTURE!r}")
        if root is not None:
            return root
        warnings.warn(
            "the tensors are not those of the torch file they came from: written as a plain dict of names",
            TersorWarning,
            stacklevel=3,
        )
    return {name: Leaf(index, False, False) for index, name in enumerate(names)}


class _Storage(NamedTuple):
    """Stands for a storage while pickling. numel: elements of a typed storage, bytes of an untyped one."""

    kind: type
    key: str
    numel: int


class _Pickler(pickle.Pickler):
    """Writes each `Leaf` as torch's own rebuild functions expect it; see `torch.Tensor.__reduce_ex__`."""

    def __init__(self, file: IO[bytes], infos: Sequence[TensorInfo], keys: dict[str, int]) -> None:
        super().__init__(file, protocol=2)
        self._infos = infos
        self._keys = keys

    def persistent_id(self, obj: Any) -> Any:
        """torch's name for a storage."""
        if type(obj) is _Storage:
            return ("storage", obj.kind, obj.key, "cpu", obj.numel)
        return None

    def reducer_override(self, obj: Any) -> Any:
        """How to rebuild a tensor or parameter."""
        if type(obj) is not Leaf:
            return NotImplemented
        if obj.is_parameter:
            tensor = obj._replace(requires_grad=False, is_parameter=False)
            return torch._utils._rebuild_parameter, (tensor, obj.requires_grad, OrderedDict())
        info = self._infos[obj.position]
        key = str(self._keys[info.tied_to or info.name])
        stride = _stride(info.shape)
        view: tuple[Any, ...] = (0, info.shape, stride, obj.requires_grad, OrderedDict())
        kind = _STORAGES.get(info.dtype)
        if kind is not None:
            storage = _Storage(getattr(torch, kind), key, info.nbytes // info.dtype.itemsize)
            return torch._utils._rebuild_tensor_v2, (storage, *view)
        storage = _Storage(torch.UntypedStorage, key, info.nbytes)
        return torch._utils._rebuild_tensor_v3, (storage, *view, info.dtype)


def _stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous tensor of `shape`."""
    strides: list[int] = []
    step = 1
    for d in reversed(shape):
        strides.append(step)
        step *= max(d, 1)
    return tuple(reversed(strides))


def _check_archive(path: str) -> None:
    """Refuses TorchScript, and archives whose members cannot be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGE as error:
        raise InputError(f"{path}: a damaged torch file ({error}); fetch it again") from error
    names = [member.filename.partition("/")[2] for member in members]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise UnsafeFileError(
            f"{path}: a TorchScript or exported program holds code, and tersor never runs it. If you "
            "trust it, load it yourself with torch.jit.load(path) and torch.save its state_dict()"
        )
    if "data.pkl" not in names:
        raise InputError(f"{path}: a zip archive, but not one of torch.save")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(f"{path}: its zip members are compressed, torch.save never does that; load and save it again")


def _load(path: str, mapped: bool) -> Any:
    with open_input(path) as file:
        if file.read(512)[257:262] == _TAR_MAGIC:
            raise UnsafeFileError(f"{path}: torch reads tar files of this age only with pickled code; {_REMEDY}")
    try:
        if mapped:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with open_input(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path}: it asks for pickled code, or is damaged ({_reason(error)}); {_REMEDY}"
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"{path}: torch cannot read it ({_reason(error)}); it may be damaged: fetch it again"
        ) from error


def _reason(error: BaseException) -> str:
    """The one line of torch's message that says what was wrong."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error) or type(error).__name__
    return text.strip().splitlines()[0].partition(". Please")[0]
