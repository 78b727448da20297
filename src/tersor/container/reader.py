"""Reads .tsr files: the index at once, tensors when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import IO, Any, TypeVar

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
from tersor.container.segments import Item, decode_items
from tersor.container.sinks import OnlyTables, Representation, Tables
from tersor.container.source import Source
from tersor.errors import CorruptFileError, LimitError, TersorError, UnsupportedVersionError
from tersor.parallel import ordered_map
from tersor.tensors import CompressedTensor

_CHUNKS_IN_FLIGHT = 8
_READ = 1 << 22

T = TypeVar("T")
R = TypeVar("R")


class Reader:
    """An open .tsr file; a context manager. Opening reads and checks the index only.

    file: a path, or a seekable binary file.
    max_bytes: refuses files whose tensors take more than this when they are decoded (LimitError).
    index: what the file holds. file_bytes: its size. content_id: 16 bytes. chunks: the items of each chunk.
    Raises InputError for an unreadable path, CorruptFileError (or a kind of it) for what is not a sound .tsr file.
    """

    def __init__(self, file: str | os.PathLike[str] | IO[bytes], *, max_bytes: int | None = None) -> None:
        self._source = Source(file)
        self.name = self._source.name
        self.chunks: list[list[Item]] = []
        self._starts = [PROLOGUE]
        self._places: dict[int, range] = {}
        self._tables: dict[tuple[int, str], Tensor] = {}
        try:
            with self.named_errors():
                self._open(max_bytes)
        except TersorError:
            self.close()
            raise

    def _open(self, max_bytes: int | None) -> None:
        self.file_bytes = self._source.size
        head = bytes(self._source.read(0, min(PROLOGUE, self.file_bytes)))
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
        trailer = bytes(self._source.read(self.file_bytes - TRAILER, TRAILER))
        size = int.from_bytes(trailer[:4], "little")
        self.content_id = trailer[4:20]
        if size > min(MAX_INDEX, self.file_bytes - PROLOGUE - TRAILER):
            raise CorruptFileError("the index does not fit into the file; it is damaged or truncated: fetch it again")
        tail = bytes(self._source.read(self.file_bytes - TRAILER - size, size))
        if xxh3_64(head + tail + trailer[:20]) != int.from_bytes(trailer[20:], "little"):
            raise CorruptFileError("the index fails its checksum; the file is damaged or truncated: fetch it again")
        self.index, self._checksums = decode_tail(tail)
        self._positions = {entry.name: position for position, entry in enumerate(self.index.tensors)}
        self._plan()
        self._sound = bytearray(len(self.chunks))
        if self._starts[-1] != self.file_bytes - TRAILER - size:
            raise CorruptFileError("the sizes in the index do not add up to the size of the file")
        self._check_limit(max_bytes)

    def _plan(self) -> None:
        """The items of every chunk, where chunks start and end, and the chunks of every tensor."""
        items: list[Item] = []
        for position, entry in enumerate(self.index.tensors):
            start = 0
            parts = segment_geometries(entry.common.shape) if entry.params is not None else []
            for number, (part, sections) in enumerate(zip(parts, entry.segments, strict=True)):
                items.append(Item(position, number, start, part, sum(section.size for section in sections)))
                start += part.elements
        for number, attachment in enumerate(self.index.attachments):
            items.append(Item(None, number, 0, None, attachment.section.size))
        at = 0
        for chunk, count in enumerate(self.index.chunk_items):
            self.chunks.append(items[at : at + count])
            self._starts.append(self._starts[-1] + sum(item.size for item in self.chunks[-1]))
            at += count
            for item in self.chunks[-1]:
                if item.tensor is not None:
                    places = self._places.setdefault(item.tensor, range(chunk, chunk))
                    self._places[item.tensor] = range(places.start, chunk + 1)

    def _check_limit(self, max_bytes: int | None) -> None:
        total = sum(_decoded_bytes(entry) for entry in self.index.tensors if entry.tied_to is None or entry.copied)
        if max_bytes is not None and total > max_bytes:
            raise LimitError(f"the tensors take {total} bytes, above the limit of {max_bytes} (max_bytes)")

    def check_memory(self, positions: Iterable[int]) -> None:
        """LimitError for a tensor, of those at `positions` of the index, that is larger than the machine's memory."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 46
        for entry in (self.index.tensors[position] for position in positions):
            if _decoded_bytes(entry) > memory:
                raise LimitError(
                    f"tensor {entry.name!r} takes {_decoded_bytes(entry)} bytes, more than this machine has; "
                    "tersor.open reads it in parts"
                )

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._positions)

    def entry(self, name: str) -> TensorEntry:
        """What the index says of a tensor. KeyError if there is none of that name."""
        return self.index.tensors[self._positions[name]]

    def position(self, name: str) -> int:
        """Where the index has the content of a tensor. KeyError if there is none of that name."""
        return self.content(self._positions[name])

    def content(self, position: int) -> int:
        """Where the content of the tensor at `position` is: there, or where the tensor is that it ties to or copies."""
        source = self.index.tensors[position].tied_to
        return position if source is None else source

    def chunks_of(self, position: int) -> range:
        """The chunks that hold segments of the tensor at a position of the index."""
        return self._places[position]

    def read(self, name: str) -> CompressedTensor:
        """One tensor; reads and checks only its chunks. A tied tensor gives the one it is tied to."""
        position = self.position(name)
        with self.named_errors():
            self.check_memory([position])
            sink = Representation(self.index.tensors[position])
            for chunk in self.chunks_of(position):
                decode_items(self.chunk(chunk), self.chunks[chunk], self.index, {position: sink})
            return sink.build(self.shared_tables(position))

    def tensors(self, executor: Executor | None = None) -> Iterator[tuple[str, CompressedTensor | None]]:
        """All tensors in the order of the file, each decoded when its turn comes; None for tied ones.

        executor: decodes chunks ahead, in parallel, within bounded memory.
        """
        sinks: dict[int, Representation] = {}
        shared = {
            (position - section.distance, section.role)
            for position, entry in enumerate(self.index.tensors)
            for section in (entry.segments[0] if entry.segments else ())
            if section.distance
        }

        def open_sinks(chunk: int) -> tuple[int, dict[int, Representation]]:
            mine: dict[int, Representation] = {}
            for item in self.chunks[chunk]:
                if item.tensor is not None:
                    if item.tensor not in sinks:
                        sinks[item.tensor] = Representation(self.index.tensors[item.tensor])
                    mine[item.tensor] = sinks[item.tensor]
            return chunk, mine

        def decode(opened: tuple[int, dict[int, Representation]]) -> int:
            chunk, mine = opened
            decode_items(self.chunk(chunk), self.chunks[chunk], self.index, mine)
            return chunk

        count = len(self.index.tensors)
        with self.named_errors():
            self.check_memory(range(count))
            turn = 0
            for chunk in self.in_order(decode, map(open_sinks, range(len(self.chunks))), executor):
                last = chunk + 1 == len(self.chunks)
                upto = count if last else _first_tensor(self.chunks[chunk + 1], count)
                for position in range(turn, upto):
                    entry = self.index.tensors[position]
                    if entry.tied_to is not None:
                        yield entry.name, None
                        continue
                    sink = sinks.pop(position)
                    for role in sink.tables:
                        if (position, role) in shared:
                            self._tables[position, role] = sink.tables[role]
                    yield entry.name, sink.build(self.shared_tables(position))
                    del sink
                turn = upto

    def in_order(self, work: Callable[[T], R], chunks: Iterable[T], executor: Executor | None) -> Iterator[R]:
        """`work` of each chunk, in order, decoded ahead by `executor` within bounded memory."""
        return ordered_map(work, chunks, executor, cost=lambda _: 1, budget=_CHUNKS_IN_FLIGHT)

    def own_tables(self, position: int) -> Tables:
        """The tables that lie in a tensor's first segment, without its codes."""
        sink = OnlyTables(self.index.tensors[position])
        chunk = self.chunks_of(position).start
        decode_items(self.chunk(chunk), self.chunks[chunk], self.index, {position: sink})
        return sink.tables

    def shared_tables(self, position: int) -> Tables:
        """The tables that a tensor shares with an earlier one."""
        found: Tables = {}
        for section in self.index.tensors[position].segments[0]:
            if section.distance:
                source = position - section.distance
                if (source, section.role) not in self._tables:
                    self._tables[source, section.role] = self.own_tables(source)[section.role]
                found[section.role] = self._tables[source, section.role]
        return found

    def attachment(self, name: str) -> bytes:
        """One attachment. KeyError if there is none of that name."""
        wanted = {attachment.name: number for number, attachment in enumerate(self.index.attachments)}[name]
        with self.named_errors():
            for chunk, items in enumerate(self.chunks):
                offset = 0
                for item in items:
                    if item.tensor is None and item.number == wanted:
                        blob = bytes(self.chunk(chunk)[offset : offset + item.size])
                        return decode_attachment(blob, self.index.attachments[wanted].section.method)
                    offset += item.size
        raise AssertionError("every attachment of the index is an item of a chunk")

    def attachments(self) -> dict[str, bytes]:
        """All attachments by name."""
        return {attachment.name: self.attachment(attachment.name) for attachment in self.index.attachments}

    def verify(self) -> None:
        """Checks every byte of the file: all chunks' checksums and the content id. CorruptFileError if one fails."""
        with self.named_errors():
            self._sound = bytearray(len(self.chunks))
            for chunk in range(len(self.chunks)):
                self.chunk(chunk)
            digest = ContentId()
            end = self.file_bytes - TRAILER + 4
            for at in range(0, end, _READ):
                digest.update(self._source.read(at, min(_READ, end - at)))
            if digest.digest() != self.content_id:
                raise CorruptFileError("the content id does not match the content")

    def chunk(self, number: int) -> memoryview:
        """The bytes of a chunk, checked when it is first read."""
        start, end = self._starts[number], self._starts[number + 1]
        data = self._source.read(start, end - start)
        if self._sound[number]:
            return data
        if xxh3_64(data) != self._checksums[number]:
            raise CorruptFileError(
                f"chunk {number} (bytes {start} to {end}) fails its checksum; the file is damaged: fetch it again"
            )
        self._sound[number] = 1
        return data

    @contextmanager
    def named_errors(self) -> Iterator[None]:
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
        self._source.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _decoded_bytes(entry: TensorEntry) -> int:
    return entry.common.shape.numel() * entry.common.dtype.itemsize


def _first_tensor(items: list[Item], none: int) -> int:
    """Position of the first tensor that is not complete before this chunk."""
    return none if items[0].tensor is None else items[0].tensor
