"""Reads .tsr files: the index at once, tensors when they are asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import IO, Any

from torch import Tensor

from tersor.container.attachments import decode_attachment
from tersor.container.checksum import ContentId, xxh3_64
from tersor.container.index import (
    MAGIC,
    MAX_INDEX,
    PROLOGUE,
    TRAILER,
    VERSION,
    TensorEntry,
    decode_tail,
    segment_geometries,
)
from tersor.container.kinds import params_of
from tersor.container.segments import Item, Target, decode_items
from tersor.errors import CorruptFileError, InputError, LimitError, TersorError, UnsupportedVersionError
from tersor.parallel import ordered_map
from tersor.tensors import CompressedTensor

_BYTES_IN_FLIGHT = 32 << 20
_READ = 1 << 22


class Reader:
    """An open .tsr file; a context manager. Opening reads and checks the index only.

    file: a path, or a seekable binary file.
    max_bytes: refuses files whose tensors take more than this when they are decoded (LimitError).
    index: what the file holds. file_bytes: its size. content_id: 16 bytes.
    Raises InputError for an unreadable path, CorruptFileError (or a kind of it) for what is not a sound .tsr file.
    """

    def __init__(self, file: str | os.PathLike[str] | IO[bytes], *, max_bytes: int | None = None) -> None:
        if isinstance(file, (str, os.PathLike)):
            self.name = os.fspath(file)
            try:
                self._file: IO[bytes] = open(file, "rb")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise InputError(f"{self.name}: cannot be read ({error.strerror})") from error
        else:
            self.name = str(getattr(file, "name", "<stream>"))
            self._file = file
        self._lock = threading.Lock()
        self._tables: dict[tuple[int, str], Tensor] = {}
        try:
            with self._named():
                self._open(max_bytes)
        except TersorError:
            self.close()
            raise

    def _open(self, max_bytes: int | None) -> None:
        self.file_bytes = self._file.seek(0, os.SEEK_END)
        head = self._at(0, min(PROLOGUE, self.file_bytes))
        if not head:
            raise CorruptFileError("the file is empty; fetch it again")
        if head[: len(MAGIC)] != MAGIC[: len(head)]:
            raise CorruptFileError("this is not a .tsr file")
        if self.file_bytes < PROLOGUE + TRAILER:
            raise CorruptFileError("the file is truncated; fetch it again")
        if head[-1] != VERSION:
            raise UnsupportedVersionError(
                f"format version {head[-1]} is not supported (this tersor reads version {VERSION}); update tersor"
            )
        trailer = self._at(self.file_bytes - TRAILER, TRAILER)
        size = int.from_bytes(trailer[:4], "little")
        self.content_id = trailer[4:20]
        if size > min(MAX_INDEX, self.file_bytes - PROLOGUE - TRAILER):
            raise CorruptFileError("the index does not fit into the file; it is damaged or truncated: fetch it again")
        tail = self._at(self.file_bytes - TRAILER - size, size)
        if xxh3_64(head + tail + trailer[:20]) != int.from_bytes(trailer[20:], "little"):
            raise CorruptFileError("the index fails its checksum; the file is damaged or truncated: fetch it again")
        self.index, self._checksums = decode_tail(tail)
        self._positions = {entry.name: position for position, entry in enumerate(self.index.tensors)}
        self._chunks, self._starts = self._plan()
        if self._starts[-1] != self.file_bytes - TRAILER - size:
            raise CorruptFileError("the sizes in the index do not add up to the size of the file")
        self._check_limits(max_bytes)

    def _plan(self) -> tuple[list[list[Item]], list[int]]:
        """The items of every chunk, and the offset of every chunk and of the end of the last one."""
        items: list[Item] = []
        for position, entry in enumerate(self.index.tensors):
            start = 0
            parts = segment_geometries(entry.common.shape) if entry.params is not None else []
            for number, (part, sections) in enumerate(zip(parts, entry.segments, strict=True)):
                items.append(Item(position, number, start, part, sum(section.size for section in sections)))
                start += part.elements
        for number, attachment in enumerate(self.index.attachments):
            items.append(Item(None, number, 0, None, attachment.section.size))
        chunks, starts, at = [], [PROLOGUE], 0
        for count in self.index.chunk_items:
            chunks.append(items[at : at + count])
            starts.append(starts[-1] + sum(item.size for item in chunks[-1]))
            at += count
        return chunks, starts

    def _check_limits(self, max_bytes: int | None) -> None:
        own = [entry for entry in self.index.tensors if entry.tied_to is None or entry.copied]
        total = sum(_decoded_bytes(entry) for entry in own)
        if max_bytes is not None and total > max_bytes:
            raise LimitError(f"the tensors take {total} bytes, above the limit of {max_bytes} (max_bytes)")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 46
        for entry in own:
            if _decoded_bytes(entry) > memory:
                raise LimitError(
                    f"tensor {entry.name!r} takes {_decoded_bytes(entry)} bytes, more than this machine has"
                )

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._positions)

    def entry(self, name: str) -> TensorEntry:
        """What the index says of a tensor. KeyError if there is none of that name."""
        return self.index.tensors[self._positions[name]]

    def read(self, name: str) -> CompressedTensor:
        """One tensor; reads and checks only its chunks. A tied tensor gives the one it is tied to."""
        position = self._positions[name]
        tied = self.index.tensors[position].tied_to
        position = position if tied is None else tied
        target: Target | None = None
        with self._named():
            for chunk, items in enumerate(self._chunks):
                wanted = [item for item in items if item.tensor == position]
                if wanted:
                    target = target or Target(self.index.tensors[position])
                    decode_items(self._chunk(chunk), items, self.index, {position: target})
            assert target is not None
            return target.build(self._shared_tables(position))

    def tensors(self, executor: Executor | None = None) -> Iterator[tuple[str, CompressedTensor | None]]:
        """All tensors in the order of the file, each decoded when its turn comes; None for tied ones.

        executor: decodes chunks ahead, in parallel, within bounded memory.
        """
        targets: dict[int, Target] = {}
        shared = {
            (position - section.distance, section.role)
            for position, entry in enumerate(self.index.tensors)
            for section in (entry.segments[0] if entry.segments else ())
            if section.distance
        }

        def load(chunk: int) -> tuple[int, bytes, dict[int, Target]]:
            mine: dict[int, Target] = {}
            for item in self._chunks[chunk]:
                if item.tensor is not None:
                    mine[item.tensor] = targets.setdefault(item.tensor, Target(self.index.tensors[item.tensor]))
            return chunk, self._chunk(chunk), mine

        def decode(loaded: tuple[int, bytes, dict[int, Target]]) -> int:
            chunk, data, mine = loaded
            decode_items(data, self._chunks[chunk], self.index, mine)
            return chunk

        with self._named():
            turn = 0
            loads = (load(chunk) for chunk in range(len(self._chunks)))
            cost = _BYTES_IN_FLIGHT // 8
            for chunk in ordered_map(decode, loads, executor, cost=lambda _: cost, budget=_BYTES_IN_FLIGHT):
                last = chunk + 1 == len(self._chunks)
                upto = (
                    len(self.index.tensors) if last else _first_tensor(self._chunks[chunk + 1], len(self.index.tensors))
                )
                for position in range(turn, upto):
                    entry = self.index.tensors[position]
                    if entry.tied_to is not None:
                        yield entry.name, None
                        continue
                    target = targets.pop(position)
                    for role in target.tables:
                        if (position, role) in shared:
                            self._tables[position, role] = target.tables[role]
                    yield entry.name, target.build(self._shared_tables(position))
                    del target
                turn = upto

    def _shared_tables(self, position: int) -> dict[str, Tensor]:
        """The tables that a tensor shares with an earlier one."""
        found: dict[str, Tensor] = {}
        entry = self.index.tensors[position]
        for section in entry.segments[0]:
            if section.distance:
                source = position - section.distance
                if (source, section.role) not in self._tables:
                    whole = self.read(self.index.tensors[source].name)
                    self._tables[source, section.role] = params_of(whole).table(whole, section.role)
                found[section.role] = self._tables[source, section.role]
        return found

    def attachment(self, name: str) -> bytes:
        """One attachment. KeyError if there is none of that name."""
        wanted = {attachment.name: number for number, attachment in enumerate(self.index.attachments)}[name]
        with self._named():
            for chunk, items in enumerate(self._chunks):
                offset = 0
                for item in items:
                    if item.tensor is None and item.number == wanted:
                        blob = self._chunk(chunk)[offset : offset + item.size]
                        return decode_attachment(blob, self.index.attachments[wanted].section.method)
                    offset += item.size
        raise AssertionError("every attachment of the index is an item of a chunk")

    def attachments(self) -> dict[str, bytes]:
        """All attachments by name."""
        return {attachment.name: self.attachment(attachment.name) for attachment in self.index.attachments}

    def verify(self) -> None:
        """Checks every byte of the file: all chunks' checksums and the content id. CorruptFileError if one fails."""
        with self._named():
            for chunk in range(len(self._chunks)):
                self._chunk(chunk)
            digest = ContentId()
            end = self.file_bytes - TRAILER + 4
            for at in range(0, end, _READ):
                digest.update(self._at(at, min(_READ, end - at)))
            if digest.digest() != self.content_id:
                raise CorruptFileError("the content id does not match the content")

    def _chunk(self, number: int) -> bytes:
        """The bytes of a chunk, checked."""
        start, end = self._starts[number], self._starts[number + 1]
        data = self._at(start, end - start)
        if xxh3_64(data) != self._checksums[number]:
            raise CorruptFileError(
                f"chunk {number} (bytes {start} to {end}) fails its checksum; the file is damaged: fetch it again"
            )
        return data

    def _at(self, offset: int, size: int) -> bytes:
        with self._lock:
            try:
                self._file.seek(offset)
                data = self._file.read(size)
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise CorruptFileError("the file ends early; it is truncated")
        return data

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Puts the file's name in front of errors, and turns a lack of memory into a LimitError."""
        try:
            yield
        except TersorError as error:
            if error.args and not str(error.args[0]).startswith(self.name):
                error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
            raise
        except MemoryError as error:
            raise LimitError(f"{self.name}: the tensors do not fit into memory") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _decoded_bytes(entry: TensorEntry) -> int:
    return entry.common.shape.numel() * entry.common.dtype.itemsize


def _first_tensor(items: list[Item], none: int) -> int:
    """Position of the first tensor that is not complete before this chunk."""
    return none if items[0].tensor is None else items[0].tensor
