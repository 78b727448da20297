"""From a .tsr file back to tensors: a state_dict, a module, or the kind of checkpoint that went in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import IO

import torch
from torch import Tensor, nn

from tersor.container.reader import Reader
from tersor.errors import MismatchError
from tersor.interop import Checkpoint, CheckpointInfo, TensorInfo, write_checkpoint
from tersor.parallel import ordered_map, thread_pool


class RestoredCheckpoint(Checkpoint):
    """An open .tsr file as a checkpoint of the kind that it was made from.

    Reading tensors in the order of the file is fast (they are decoded ahead, in parallel); any order works.
    """

    def __init__(self, reader: Reader, executor: Executor | None = None) -> None:
        self._reader = reader
        try:
            attachments = reader.attachments()
        except BaseException:
            reader.close()
            raise
        entries = reader.index.tensors
        tensors = tuple(
            TensorInfo(
                entry.name,
                tuple(entry.common.shape),
                entry.common.dtype,
                None if entry.tied_to is None or entry.copied else entries[entry.tied_to].name,
                entry.note,
            )
            for entry in entries
        )
        self.info = CheckpointInfo(reader.index.source, tensors, attachments)
        self._own = [entry.name for entry in entries if entry.tied_to is None]
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


def load(
    path: str | os.PathLike[str] | IO[bytes],
    *,
    into: nn.Module | None = None,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> dict[str, Tensor]:
    """The state_dict that a .tsr file holds; every chunk is checked.

    into: a module that is filled in place, in its own dtypes and on its own devices. Its parameters and buffers
        must be the file's tensors: MismatchError names every one that is missing, unexpected or of another shape,
        before anything is changed.
    max_bytes: refuses files whose tensors take more (LimitError).
    threads: None for one a CPU.
    Raises InputError for an unreadable path, CorruptFileError for a damaged file. Tied tensors share memory.
    """
    with (
        thread_pool(threads) as executor,
        RestoredCheckpoint(Reader(path, max_bytes=max_bytes), executor) as found,
    ):
        slots = None if into is None else into.state_dict(keep_vars=True)
        if slots is not None:
            _check_fit(found, slots)
        out: dict[str, Tensor] = {}
        for info in found.info.tensors:
            out[info.name] = out[info.tied_to] if info.tied_to is not None else found.read(info.name)
        if slots is not None:
            with torch.no_grad():
                for name, value in out.items():
                    slots[name].copy_(value)
        return out


def _check_fit(found: Checkpoint, slots: dict[str, Tensor]) -> None:
    """MismatchError that names every tensor that does not fit."""
    given = {info.name: info.shape for info in found.info.tensors}
    wanted = {name: tuple(value.shape) for name, value in slots.items() if isinstance(value, Tensor)}
    lines = []
    missing = sorted(set(wanted) - set(given))
    unexpected = sorted(set(given) - set(wanted))
    wrong = [
        f"{name} (module {wanted[name]}, file {given[name]})"
        for name in sorted(set(given) & set(wanted))
        if given[name] != wanted[name]
    ]
    for what, names in (
        ("missing in the file", missing),
        ("unexpected in the file", unexpected),
        ("shape", wrong),
    ):
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    if lines:
        raise MismatchError("the file does not fit the module; nothing was changed. " + "; ".join(lines))
