"""Hugging Face folders: weights in one file or in shards, and every other file beside them.

Weights lie in the folder itself or in sub-folders (a Dense module of sentence-transformers, the parts of a
diffusion pipeline); a tensor of a sub-folder is named "<sub-folder>/<name>".

Attachments:
- "file:<relative/posix/path>": a file that holds no weights.
- "huggingface.layout": JSON {"weights": [{"path", "tensors": how many, "attachments": the file's own}],
  "indexes": [{"path", "metadata"} or {"path", "text"}]}: which tensors lie in which file, in order. An index
  that transformers would write the same way is kept as its metadata alone.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from tersor.errors import InputError, TersorWarning
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.part import Part
from tersor.interop.raw import open_input
from tersor.interop.relative_path import checked_path
from tersor.interop.safetensors import METADATA, SafetensorsFile, write_safetensors
from tersor.interop.torch_file import TorchFile, write_torch

FILE = "file:"
LAYOUT = "huggingface.layout"
_INDEX = ".index.json"
_WHOLE = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
_FOREIGN = (
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".tflite",
    ".safetensors",
    ".pt",
    ".pth",
    ".ckpt",
)
_FOREIGN_BIN = re.compile(r"model|optimizer|scheduler")
_TRAINING = re.compile(r"checkpoint-\d+")
_FILE_LIMIT = 100 << 20


class HuggingFaceFolder(Checkpoint):
    """A folder of weights and their configuration. InputError if it holds no weights or lacks a shard."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens every weight file and takes the other files along."""
        self._parts: dict[str, tuple[Checkpoint, str]] = {}
        self._stack = ExitStack()
        root = Path(path)
        tensors: list[TensorInfo] = []
        layout: dict[str, list[Any]] = {"weights": [], "indexes": []}
        attachments: dict[str, bytes] = {}
        left: list[str] = []
        self.file_bytes = 0
        try:
            for folder, names in _folders(root, left):
                weights, index = _weight_files(root / folder, names)
                for name in weights:
                    layout["weights"].append(self._open(root, folder / name, tensors))
                if index is not None:
                    layout["indexes"].append(_index_entry(root, folder / index, layout["weights"], tensors))
                loaded = {*weights, index}
                self.file_bytes += sum((root / folder / name).stat().st_size for name in names if name in loaded)
                _collect(root, folder, [name for name in names if name not in loaded], attachments, left)
            if not layout["weights"]:
                raise InputError(f"{path}: no weights found: no *.safetensors, no pytorch_model.bin and no index")
        except BaseException:
            self._stack.close()
            raise
        if left:
            reason = "weights of other frameworks, duplicates, training states, or above 100 MiB"
            warnings.warn(f"{path}: not taken along ({reason}): {', '.join(left)}", TersorWarning, stacklevel=3)
        self.file_bytes += sum(len(data) for data in attachments.values())
        attachments[LAYOUT] = json.dumps(layout, separators=(",", ":")).encode()
        self.info = CheckpointInfo("huggingface", tuple(tensors), attachments)

    def _open(self, root: Path, relative: PurePosixPath, tensors: list[TensorInfo]) -> dict[str, Any]:
        """Adds the tensors of one weight file; gives its entry in the layout."""
        path = root / relative
        part: Checkpoint = SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)
        self._stack.enter_context(part)
        prefix = _prefix(relative)
        for info in part.info.tensors:
            name = prefix + info.name
            if name in self._parts:
                raise InputError(f"{path}: tensor {info.name!r} occurs in another weight file too")
            self._parts[name] = (part, info.name)
            tied_to = None if info.tied_to is None else prefix + info.tied_to
            tensors.append(TensorInfo(name, info.shape, info.dtype, tied_to))
        own = {name: data.decode() for name, data in part.info.attachments.items()}
        return {"path": str(relative), "tensors": len(part.info.tensors), "attachments": own}

    def read(self, name: str) -> Tensor:
        """The tensor `name`; see `Checkpoint.read`."""
        part, inner = self._parts[name]
        return part.read(inner)

    def close(self) -> None:
        """Closes all weight files."""
        self._stack.close()


def write_huggingface(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes `checkpoint` into the empty `folder`.

    A Hugging Face source gives back its files. Any other becomes model.safetensors alone: the
    configuration that belongs to it is not known. InputError if an attachment's path leaves the folder or
    names a weight file.
    """
    files = {name[len(FILE) :]: data for name, data in checkpoint.info.attachments.items() if name.startswith(FILE)}
    parts, indexes = _plan(checkpoint)
    for path in files:
        checked_path(path, f"attachment {FILE + path!r}")
        if path in parts or path in indexes:
            raise InputError(f"attachment {FILE + path!r}: would overwrite a weight file; the input is malicious")
    for path, data in (files | indexes).items():
        _create(folder, path).write_bytes(data)
    for path, part in parts.items():
        with open(_create(folder, path), "xb") as file:
            (write_safetensors if path.endswith(".safetensors") else write_torch)(part, file)


def _create(folder: Path, path: str) -> Path:
    """Where to write `path`, with its sub-folder made. InputError if another file is in the way."""
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: both a file and a folder of that name; the input is damaged") from error
    if target.exists():
        raise InputError(f"{path}: occurs twice; the input is damaged")
    return target


def _plan(checkpoint: Checkpoint) -> tuple[dict[str, Checkpoint], dict[str, bytes]]:
    """Weight files and index files by path."""
    info = checkpoint.info
    if LAYOUT in info.attachments:
        try:
            layout = json.loads(info.attachments[LAYOUT])
            planned = _from_layout(checkpoint, layout)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"attachment {LAYOUT!r} is damaged ({error!r})") from error
        if planned is not None:
            return planned
    own = {METADATA: info.attachments[METADATA]} if METADATA in info.attachments else {}
    source = "safetensors" if own else "state_dict"
    return {_WHOLE[".safetensors"]: Part(checkpoint, info.tensors, "", source, own)}, {}


def _from_layout(
    checkpoint: Checkpoint, layout: Mapping[str, Any]
) -> tuple[dict[str, Checkpoint], dict[str, bytes]] | None:
    """What the layout asks for; None if it is one of other tensors."""
    parts: dict[str, Checkpoint] = {}
    tensors = checkpoint.info.tensors
    begin = 0
    for entry in layout["weights"]:
        path = checked_path(entry["path"], f"attachment {LAYOUT!r}")
        own = tensors[begin : begin + entry["tensors"]]
        prefix = _prefix(PurePosixPath(path))
        if type(entry["tensors"]) is not int or len(own) != entry["tensors"]:
            return None
        if not all(t.name.startswith(prefix) for t in own):
            return None
        if path in parts:
            raise ValueError(f"{path} occurs twice")
        attachments = {name: text.encode() for name, text in entry["attachments"].items()}
        kind = "safetensors" if path.endswith(".safetensors") else "torch"
        parts[path] = Part(checkpoint, own, prefix, kind, attachments)
        begin += len(own)
    if begin != len(tensors):
        return None
    indexes = {}
    for entry in layout["indexes"]:
        path = checked_path(entry["path"], f"attachment {LAYOUT!r}")
        if path in parts or path in indexes:
            raise ValueError(f"{path} occurs twice")
        folder = PurePosixPath(path).parent
        names = {p: part.info.tensors for p, part in parts.items() if PurePosixPath(p).parent == folder}
        weight_map = {t.name: PurePosixPath(p).name for p, own in names.items() for t in own}
        indexes[path] = _index_bytes(entry, weight_map)
    return parts, indexes


def _index_bytes(entry: Mapping[str, Any], weight_map: dict[str, str]) -> bytes:
    """The index file: the text that was read if it still tells the truth, else made anew."""
    if "text" not in entry:
        return _index_text(entry["metadata"], weight_map).encode()
    index = json.loads(entry["text"])
    if all(weight_map.get(name) == shard for name, shard in index["weight_map"].items()):
        return str(entry["text"]).encode()
    return _index_text(index.get("metadata", {}), weight_map).encode()


def _index_text(metadata: Any, weight_map: dict[str, str]) -> str:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _prefix(relative: PurePosixPath) -> str:
    return "" if str(relative.parent) == "." else f"{relative.parent}/"


def _folders(root: Path, left: list[str]) -> Iterator[tuple[PurePosixPath, list[str]]]:
    """Folders (relative) with the names of their files, hidden ones and training checkpoints left out."""
    for here, folders, names in os.walk(root):
        relative = PurePosixPath(Path(here).relative_to(root).as_posix())
        left.extend(f"{relative / name}/" for name in sorted(folders) if _TRAINING.fullmatch(name))
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _TRAINING.fullmatch(n))
        yield relative, sorted(name for name in names if not name.startswith("."))


def _weight_files(folder: Path, names: Sequence[str]) -> tuple[list[str], str | None]:
    """The weight files of one folder and their index, as transformers would choose: safetensors first."""
    for suffix, whole in _WHOLE.items():
        if whole in names:
            return [whole], None
        indexes = [n for n in names if n.endswith(suffix + _INDEX)]
        if indexes:
            index = min(indexes, key=lambda n: (n != whole + _INDEX, len(n), n))
            return sorted(set(_weight_map(folder / index).values())), index
        others = [n for n in names if n.endswith(suffix) and (suffix != ".bin" or n.endswith("_model.bin"))]
        if len(others) > 1:
            others = [n for n in others if n.count(".") == 1]  # without variants like model.fp16.safetensors
            if len(others) != 1:
                raise InputError(
                    f"{folder}: several weight files and no *{suffix}{_INDEX} to say which belong together"
                )
        if others:
            return others, None
    return [], None


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor name -> file name of its shard. InputError if the index is damaged or a shard is missing."""
    try:
        with open_input(path) as file:
            weight_map = json.load(file)["weight_map"]
        for shard in set(weight_map.values()):
            if "/" in checked_path(shard, f"{path}"):
                raise InputError(f"{path}: shard {shard!r} lies in another folder")
            if not (path.parent / shard).is_file():
                raise InputError(f"{path}: shard {shard!r} is missing; fetch the whole folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not an index of weights ({error!r})") from error
    return dict(weight_map)


def _index_entry(
    root: Path, relative: PurePosixPath, weights: Sequence[Mapping[str, Any]], tensors: Sequence[TensorInfo]
) -> dict[str, Any]:
    """The layout's entry of an index, checked against the tensors that its shards hold."""
    prefix = _prefix(relative)
    held: dict[str, str] = {}
    begin = 0
    for entry in weights:
        path = PurePosixPath(entry["path"])
        own = tensors[begin : begin + entry["tensors"]]
        begin += len(own)
        if path.parent == relative.parent:
            held.update({t.name[len(prefix) :]: path.name for t in own})
    index = root / relative
    for name, shard in _weight_map(index).items():
        if held.get(name) != shard:
            raise InputError(f"{index}: tensor {name!r} is not in shard {shard!r}; fetch the whole folder again")
    with open_input(index) as file:
        text = file.read().decode()
    metadata = json.loads(text).get("metadata")
    if text == _index_text(metadata, held):
        return {"path": str(relative), "metadata": metadata}
    return {"path": str(relative), "text": text}


def _collect(
    root: Path, folder: PurePosixPath, names: Sequence[str], attachments: dict[str, bytes], left: list[str]
) -> None:
    """Takes the files `names` along as attachments; lists in `left` those that are not."""
    for name in names:
        relative = str(folder / name)
        foreign_index = name.endswith(_INDEX) and any(s + _INDEX in name for s in _WHOLE)
        foreign_bin = name.endswith(".bin") and _FOREIGN_BIN.search(name)
        if not (root / relative).is_file():
            continue
        too_large = (root / relative).stat().st_size > _FILE_LIMIT
        if name.endswith(_FOREIGN) or foreign_index or foreign_bin or too_large:
            left.append(relative)
        else:
            with open_input(root / relative) as file:
                attachments[FILE + relative] = file.read()
