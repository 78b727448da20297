"""The work folder: what a long run has found so far, so that the same run can go on from there.

One file a finding, "KIND-KEY.CHECKSUM.SUFFIX": complete or absent, and dropped where its content does not give the
checksum in its name. "tersor.work.json" says whose findings they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tersor._version import __version__
from tersor.calibration import LayerStatistics
from tersor.calibration import store as statistics_file
from tersor.coding import CodingConfig
from tersor.container.reader import Reader
from tersor.container.writer import Entry, write_tsr
from tersor.errors import InputError, OutputError, TersorError, TersorWarning, UsageError
from tersor.files import atomic_file
from tersor.identity import add_model, add_value
from tersor.tensors import CompressedTensor

T = TypeVar("T")

_OWNER = "tersor.work.json"
_KINDS = {"statistics": "safetensors", "layer": "tsr", "number": "json", "tensors": "safetensors"}


class Work:
    """Findings of one run on disk, by name; `load_*` gives None for what is not there, or was damaged.

    folder:   made at the first finding; None keeps nothing. Only one run at a time may use it.
    identity: of everything that the findings depend on (`identity_of`).
    Raises UsageError where the folder holds other files, or findings of another identity; OutputError where it cannot
    be written. A damaged folder or file is begun anew, with a TersorWarning.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, identity: bytes) -> None:
        self.folder = None if folder is None else Path(folder)
        self._identity = identity.hex()
        if self.folder is not None:
            self._check_owner(self.folder)

    def load_statistics(self, name: str) -> dict[str, LayerStatistics] | None:
        """What `save_statistics` got under this name."""
        return self._find("statistics", name, statistics_file.load_statistics)

    def save_statistics(self, name: str, statistics: Mapping[str, LayerStatistics]) -> None:
        """Statistics by the names of their weights."""
        self._keep("statistics", name, lambda path: statistics_file.save_statistics(statistics, path, force=True))

    def load_layer(self, run: str, layer: str) -> dict[str, CompressedTensor] | None:
        """What `save_layer` got for this layer of this run."""
        return self._find("layer", f"{run}\n{layer}", _read_layer)

    def save_layer(self, run: str, layer: str, tensors: Mapping[str, CompressedTensor]) -> None:
        """The compressed tensors of a layer, exact to the bit (but what lies under masks). run: any text."""
        self._keep("layer", f"{run}\n{layer}", lambda path: _write_layer(path, tensors))

    def load_number(self, key: str) -> float | None:
        """What `save_number` got under this key."""
        return self._find("number", key, _read_number)

    def save_number(self, key: str, value: float) -> None:
        """A number, exact to the bit."""
        self._keep("number", key, lambda path: _write(path, json.dumps(float(value)).encode()))

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """What `save_tensors` got under this name, on the CPU."""
        return self._find("tensors", name, lambda path: load(path.read_bytes()))

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Tensors of any device, exact to the bit."""
        own = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
        self._keep("tensors", name, lambda path: _write(path, save(own)))

    def discard(self) -> None:
        """Removes all findings, and the folder if nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        self._forget(self.folder)
        (self.folder / _OWNER).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _check_owner(self, folder: Path) -> None:
        try:
            if not folder.exists() or not any(folder.iterdir()):
                return
            content = (folder / _OWNER).read_bytes() if (folder / _OWNER).is_file() else None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be used as a work folder ({error.strerror or error})") from error
        if content is None:
            raise UsageError(f"{folder}: holds other files than a run's findings; choose another work folder")
        try:
            owner = json.loads(content)["identity"]
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{folder}: is damaged, and is begun anew", TersorWarning, stacklevel=3)
            self._forget(folder)
            (folder / _OWNER).unlink()
            return
        if owner != self._identity:
            raise UsageError(
                f"{folder}: holds the findings of another run (of another model, other weights, samples or options, or "
                "of another version of tersor); remove it, or choose another work folder"
            )

    def _claim(self, folder: Path) -> None:
        """Makes the folder, and writes whose it is."""
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: the work folder cannot be made ({error.strerror or error})") from error
        if not (folder / _OWNER).exists():
            _write(folder / _OWNER, json.dumps({"identity": self._identity, "tersor": __version__}).encode())

    def _keep(self, kind: str, key: str, write: Callable[[Path], None]) -> None:
        if self.folder is None:
            return
        self._claim(self.folder)
        stem = _stem(kind, key)
        part = self.folder / f"{stem}.part"
        write(part)
        target = self.folder / f"{stem}.{_checksum(part)}.{_KINDS[kind]}"
        os.replace(part, target)
        for old in self.folder.glob(f"{stem}.*"):
            if old != target:
                old.unlink(missing_ok=True)

    def _find(self, kind: str, key: str, read: Callable[[Path], T]) -> T | None:
        if self.folder is None or not self.folder.is_dir():
            return None
        for path in self.folder.glob(f"{_stem(kind, key)}.*.{_KINDS[kind]}"):
            try:
                if path.name.split(".")[1] == _checksum(path):
                    return read(path)
                reason = "its checksum does not hold"
            except (TersorError, SafetensorError, OSError, ValueError) as error:
                reason = str(error)
            warnings.warn(f"{path}: is damaged, and what it held is found anew ({reason})", TersorWarning, stacklevel=3)
            path.unlink(missing_ok=True)
        return None

    @staticmethod
    def _forget(folder: Path) -> None:
        for kind in _KINDS:
            for path in folder.glob(f"{kind}-*.*"):
                path.unlink(missing_ok=True)


def identity_of(model: nn.Module, batches: Iterable[Any], options: Any) -> bytes:
    """32 bytes that depend on all that a run's findings depend on, but the code of the model.

    That is: names, shapes, dtypes and bytes of all parameters and buffers, the modules' names and classes, all batches
    (tensors nested in tuples, lists and mappings; plain numbers and texts), the repr of options (frozen dataclasses,
    or a tuple of them), and tersor's version.
    """
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"tersor {__version__}\n{options!r}\n".encode())
    add_model(digest, model)
    for index, batch in enumerate(batches):
        digest.update(f"batch {index}\n".encode())
        add_value(digest, batch)
    return digest.digest()


def _stem(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}"


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=12)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path, force=True) as file:
        file.write(content)


def _write_layer(path: Path, tensors: Mapping[str, CompressedTensor]) -> None:
    # Packed, not coded: writing must cost little beside the layer's codes.
    with atomic_file(path, force=True) as file:
        write_tsr(file, [Entry(name, tensor) for name, tensor in tensors.items()], {}, coding=CodingConfig("raw"))


def _read_layer(path: Path) -> dict[str, CompressedTensor]:
    with Reader(path) as reader:
        return {name: tensor for name, tensor in reader.tensors() if tensor is not None}


def _read_number(path: Path) -> float:
    value = json.loads(path.read_bytes())
    if not isinstance(value, float):
        raise InputError(f"{path}: holds no number")
    return value
