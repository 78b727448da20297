"""From a .tsr file back to tensors: a state_dict, a module, or the kind of checkpoint that went in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from tersor.container.dtypes import empty_words, from_words, to_words, wire_type
from tersor.container.index import Index
from tersor.container.memory import allocate
from tersor.container.reader import Reader
from tersor.container.values import check_chunks, fill
from tersor.destinations import Destinations, given_destinations, module_destinations
from tersor.errors import CorruptFileError, MismatchError, UsageError
from tersor.interop import Checkpoint, CheckpointInfo, TensorInfo, write_checkpoint
from tersor.interop.safetensors import METADATA
from tersor.interop.torch_file import STRUCTURE
from tersor.interop.torch_structure import of_state_dict
from tersor.parallel import ordered_map, thread_pool
from tersor.structure.carried import carry, manifest_of
from tersor.structure.edits import Edits
from tersor.structure.manifest import NAME, apply_manifest
from tersor.structure.stored import layout_manifest, stored_manifest

_BATCH = 64 << 20


class RestoredCheckpoint(Checkpoint):
    """An open .tsr file as a checkpoint of the kind that it was made from.

    What the file says of a shrunk network's structure is in the metadata of safetensors files and of state_dicts in
    torch files that are made from it.
    Reading tensors in the order of the file is fast (they are decoded ahead, in parallel); any order works.
    """

    def __init__(self, reader: Reader, executor: Executor | None = None) -> None:
        self._reader = reader
        try:
            attachments = reader.attachments()
        except BaseException:
            reader.close()
            raise
        tensors = tensor_infos(reader.index)
        text = attachments[NAME].decode(errors="replace") if NAME in attachments else layout_manifest(attachments)
        if text is not None:
            attachments.setdefault(METADATA, json.dumps({"format": "pt", NAME: text}).encode())
            attachments.setdefault(STRUCTURE, of_state_dict([info.name for info in tensors], {NAME: text}))
        self.info = CheckpointInfo(reader.index.source, tensors, attachments)
        self._own = [entry.name for entry in reader.index.tensors if entry.tied_to is None]
        self._turn = 0
        self._ahead = self._decode_ahead(executor)

    def _decode_ahead(self, executor: Executor | None) -> Iterator[tuple[str, Tensor]]:
        pairs = ((name, tensor) for name, tensor in self._reader.tensors(executor) if tensor is not None)
        largest = max((info.nbytes for info in self.info.tensors), default=0)
        return ordered_map(
            lambda pair: (pair[0], pair[1].dequantize()),
            pairs,
            executor,
            cost=lambda pair: pair[1].numel * pair[1].dtype.itemsize,
            budget=largest,
        )

    def read(self, name: str) -> Tensor:
        """See `Checkpoint.read`. A tied or copied tensor is decoded anew for each of its names."""
        if self._turn < len(self._own) and self._own[self._turn] == name:
            self._turn += 1
            return next(self._ahead)[1]
        return self._reader.read(name).dequantize()

    def stored_bytes(self, name: str) -> int:
        """Bytes that a tensor takes in the file; 0 for a tied one."""
        return self._reader.entry(name).stored_bytes

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._reader.close()


def decompress_file(
    source: str | os.PathLike[str] | IO[bytes],
    target: str | os.PathLike[str],
    format: str | None = None,
    *,
    force: bool = False,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Writes the checkpoint that a .tsr file holds, tensor by tensor.

    format: one of `interop`'s formats; None for the one that the target's name asks for.
    Raises CorruptFileError for damaged files, OutputError where the target exists (unless `force`) or cannot be
    written. Nothing is left behind in either case.
    """
    with (
        thread_pool(threads) as executor,
        RestoredCheckpoint(Reader(source, max_bytes=max_bytes), executor) as found,
    ):
        write_checkpoint(found, target, format, force=force)


def tensor_infos(index: Index) -> tuple[TensorInfo, ...]:
    """What the index of a .tsr file says of its tensors, in order."""
    entries = index.tensors
    return tuple(
        TensorInfo(
            entry.name,
            tuple(entry.common.shape),
            entry.common.dtype,
            None if entry.tied_to is None or entry.copied else entries[entry.tied_to].name,
            entry.note,
        )
        for entry in entries
    )


def load(
    path: str | os.PathLike[str] | IO[bytes],
    *,
    into: nn.Module | None = None,
    out: Mapping[str, Tensor] | None = None,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> dict[str, Tensor]:
    """The state_dict that a .tsr file holds; every chunk is checked.

    into: a module that is filled in place, in its own dtypes and on its own devices. Its parameters and buffers
        must be the file's tensors: MismatchError names every one that is missing, unexpected or of another shape.
        Of a shrunk network, that network, or a fresh instance of its original class, which is made as small first
        (StructureError if it is of another class).
    out: tensors that are filled in place and returned (say, those of an earlier `load`): the file's names, shapes
        and dtypes, contiguous, on the CPU, without overlaps; else a MismatchError names them.
    max_bytes: refuses files whose tensors take more (LimitError).
    threads: None for one a CPU.
    Raises InputError for an unreadable path, CorruptFileError for a damaged file. Tied tensors share memory.

    With `into` or `out`, what is returned are their tensors. Nothing is changed before everything fits and the
    checksums of all chunks hold; only a file made to deceive can fail later, and the error says so. Tensors of the
    file's dtype, contiguous and on the CPU, are decoded in their own memory; others through a copy.
    """
    if into is not None and out is not None:
        raise UsageError("load takes `into` or `out`, not both")
    if into is not None and not isinstance(into, nn.Module):
        raise UsageError(f"into must be an nn.Module, got {type(into).__name__}; a dict of tensors is `out`")
    if out is not None and not (isinstance(out, Mapping) and all(isinstance(v, Tensor) for v in out.values())):
        raise UsageError("out must be a mapping of names to tensors; a module is `into`")
    with thread_pool(threads) as executor, Reader(path, max_bytes=max_bytes) as reader:
        infos = tensor_infos(reader.index)
        if into is None and out is None:
            return _load_new(reader, infos, executor)
        edits = Edits()
        try:
            if into is not None:
                targets, what = _shrunk_destinations(reader, infos, into, edits), "the module"
            else:
                targets, what = given_destinations(infos, out or {}), "the given tensors"
            check_chunks(reader, executor)
            try:
                _load_into(reader, infos, targets, executor)
            except CorruptFileError as error:
                error.args = (f"{error}; {what} may be overwritten in part", *error.args[1:])
                raise
        except BaseException:
            edits.rollback()
            raise
        return {info.name: targets.tensors[info.name] for info in infos}


def _shrunk_destinations(reader: Reader, infos: Sequence[TensorInfo], module: nn.Module, edits: Edits) -> Destinations:
    """The tensors of `module`, which becomes as small as the file's network where that is what it lacks."""
    try:
        return module_destinations(infos, module)
    except MismatchError:
        names = [attachment.name for attachment in reader.index.attachments]
        manifest = stored_manifest(names, reader.attachment, [info.name for info in infos])
        if manifest is None or manifest_of(module):
            raise
    apply_manifest(module, manifest, edits)
    carry(module, manifest, edits)
    return module_destinations(infos, module)


def _load_new(reader: Reader, infos: Sequence[TensorInfo], executor: Executor | None) -> dict[str, Tensor]:
    own = _decoded(reader, infos, [position for position, info in enumerate(infos) if info.tied_to is None], executor)
    return {info.name: own[info.tied_to or info.name] for info in infos}


def _load_into(reader: Reader, infos: Sequence[TensorInfo], targets: Destinations, executor: Executor | None) -> None:
    """Decodes what can be in place, then the others in batches that are copied."""
    own = [position for position, info in enumerate(infos) if info.tied_to is None]
    direct = {position for position in own if infos[position].name in targets.direct}
    in_place = {position: targets.tensors[infos[position].name] for position in direct}
    fill(reader, {position: _words(infos[position], tensor) for position, tensor in in_place.items()}, executor)
    ties: dict[str, list[str]] = {}
    for info in infos:
        if info.tied_to is not None:
            ties.setdefault(info.tied_to, []).append(info.name)
    for batch in _batches([position for position in own if position not in direct], infos):
        for name, value in _decoded(reader, infos, batch, executor).items():
            for copy in (name, *ties.pop(name, [])):
                targets.tensors[copy].copy_(value)
    for position, value in in_place.items():
        for copy in ties.get(infos[position].name, []):
            if targets.tensors[copy].data_ptr() != value.data_ptr():
                targets.tensors[copy].copy_(value)
    for tensor in in_place.values():
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)  # autograd must see that it changed


def _decoded(
    reader: Reader, infos: Sequence[TensorInfo], positions: Sequence[int], executor: Executor | None
) -> dict[str, Tensor]:
    """New tensors by name."""
    reader.check_memory(positions)
    own = [infos[position] for position in positions]
    rows = [wire_type(info.dtype, info.name) for info in own]
    words = allocate([(torch.Size(info.shape).numel(), row) for info, row in zip(own, rows, strict=True)])
    fill(reader, dict(zip(positions, words, strict=True)), executor)
    found = zip(own, words, rows, strict=True)
    return {info.name: from_words(values, row, info.shape) for info, values, row in found}


def _words(info: TensorInfo, tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    row = wire_type(info.dtype, info.name)
    return to_words(tensor, row) if tensor.numel() else empty_words(0, row)


def _batches(positions: Sequence[int], infos: Sequence[TensorInfo]) -> Iterator[list[int]]:
    """Runs of positions of at most _BATCH bytes each, or of one tensor."""
    batch: list[int] = []
    size = 0
    for position in positions:
        if batch and size + infos[position].nbytes > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(position)
        size += infos[position].nbytes
    if batch:
        yield batch
