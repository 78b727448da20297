"""Writes .tsr files: tensors in, chunks out, one after the other, with bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from torch import Tensor

from tersor.coding import (
    CodingConfig,
    Method,
    State,
    encode_array,
    encode_mask,
    encode_small_numbers,
    encode_symbols,
    to_indices,
)
from tersor.container.attachments import encode_attachment
from tersor.container.checksum import ContentId, xxh3_64
from tersor.container.dtypes import to_words, wire_type
from tersor.container.index import (
    CHECKSUM,
    MAGIC,
    MAX_ATTACHMENT,
    MAX_RANK,
    MAX_TENSORS,
    METHOD_SHARED,
    VERSION,
    AttachmentEntry,
    Index,
    Section,
    TensorEntry,
    encode_tail,
    section_roles,
    segment_geometries,
)
from tersor.container.kinds import kept, params_of
from tersor.container.params import SEGMENT, Common, Table
from tersor.errors import MismatchError, UsageError
from tersor.layers import Geometry, geometry
from tersor.parallel import ordered_map, thread_pool
from tersor.tensors import CompressedTensor

_CHUNKS_IN_FLIGHT = 6 << 20  # elements


@dataclass(frozen=True)
class Entry:
    """One tensor on its way into a file: its values, or the name of the earlier tensor that it is tied to.

    copied: not tied to that tensor, but equal to it; it gets memory of its own.
    """

    name: str
    tensor: CompressedTensor | None
    tied_to: str | None = None
    note: str | None = None
    copied: bool = False


@dataclass(frozen=True)
class Summary:
    """What was written. file_bytes: size of the file; payload_bytes: of the coded tensors in it."""

    file_bytes: int
    payload_bytes: int
    index: Index
    content_id: bytes


@dataclass
class _Item:
    """A segment that waits for its chunk. The first segment of a tensor brings the tables."""

    tensor: int
    value: CompressedTensor
    number: int
    start: int
    part: Geometry
    shared: dict[str, int]


def write_tsr(
    file: IO[bytes],
    entries: Iterable[Entry],
    attachments: dict[str, bytes],
    *,
    source: str = "state_dict",
    coding: CodingConfig | None = None,
    executor: Executor | None = None,
) -> Summary:
    """Writes a whole .tsr file to `file` (binary, written in order, never read or sought).

    entries: taken one at a time, so that a generator keeps memory small.
    source: the kind of checkpoint that it came from (one of `index.SOURCES`).
    executor: encodes chunks in parallel; the bytes are the same without it.
    Raises UsageError for names, ranks or attachments that a file cannot hold.
    """
    sink = _Sink(file)
    sink.write(MAGIC + bytes([VERSION]))
    builder = _Builder(coding or CodingConfig())
    done = ordered_map(
        builder.encode_chunk,
        builder.chunks(entries, attachments),
        executor,
        cost=lambda chunk: sum(item.part.elements if isinstance(item, _Item) else len(item[1]) for item in chunk),
        budget=_CHUNKS_IN_FLIGHT,
    )
    checksums = bytearray()
    for blob in done:
        sink.write(blob)
        checksums += xxh3_64(blob).to_bytes(CHECKSUM, "little")
    index = builder.index(source, attachments)
    tail = encode_tail(index, bytes(checksums), builder.coding.profile == "small")
    tail += len(tail).to_bytes(4, "little")
    sink.write(tail)
    content_id = sink.content_id.digest()
    sink.write(content_id)
    sink.write(xxh3_64(MAGIC + bytes([VERSION]) + tail + content_id).to_bytes(CHECKSUM, "little"))
    return Summary(sink.size, sum(tensor.stored_bytes for tensor in index.tensors), index, content_id)


def file_bytes(
    entries: Iterable[Entry],
    threads: int | None = 1,
    *,
    attachments: Mapping[str, bytes] | None = None,
    source: str = "state_dict",
    coding: CodingConfig | None = None,
) -> int:
    """The size of the file that `write_tsr` would write."""
    with thread_pool(threads) as executor:
        nowhere = io.BufferedWriter(_Nowhere())
        beside = dict(attachments or {})
        return write_tsr(nowhere, entries, beside, source=source, coding=coding, executor=executor).file_bytes


class _Nowhere(io.RawIOBase):
    """Where files go of which the size alone is of interest."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


class _Sink:
    """The output file with its running content id."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self.content_id = ContentId()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.size += len(data)
        self.content_id.update(data)


class _Builder:
    """Cuts tensors into items, items into chunks, and remembers what the index must say."""

    def __init__(self, coding: CodingConfig) -> None:
        self.coding = coding
        self.entries: list[TensorEntry] = []
        self.sections: dict[tuple[int, int], tuple[Section, ...]] = {}
        self.attachments: dict[str, Section] = {}
        self.chunk_items: list[int] = []
        self.positions: dict[str, int] = {}
        self.tables: dict[tuple[Table, bytes], int] = {}

    def chunks(
        self, entries: Iterable[Entry], attachments: dict[str, bytes]
    ) -> Iterator[list[_Item | tuple[str, bytes]]]:
        """Runs of items of about 2^20 elements (an attachment counts a byte as an element)."""
        chunk: list[_Item | tuple[str, bytes]] = []
        filled = 0
        for item, size in self._items(entries, attachments):
            if chunk and filled + size > SEGMENT:
                self.chunk_items.append(len(chunk))
                yield chunk
                chunk, filled = [], 0
            chunk.append(item)
            filled += size
            del item
        if chunk:
            self.chunk_items.append(len(chunk))
            yield chunk

    def _items(
        self, entries: Iterable[Entry], attachments: dict[str, bytes]
    ) -> Iterator[tuple[_Item | tuple[str, bytes], int]]:
        for entry in entries:
            position = self._add(entry)
            if entry.tensor is None:
                continue
            shared = self._shared_tables(position, entry.tensor)
            start = 0
            for number, part in enumerate(segment_geometries(entry.tensor.shape)):
                yield _Item(position, entry.tensor, number, start, part, shared), part.elements
                start += part.elements
        for name, data in attachments.items():
            if len(data) > MAX_ATTACHMENT:
                raise UsageError(f"attachment {name!r} has {len(data)} bytes; at most {MAX_ATTACHMENT} are possible")
            yield (name, data), len(data)

    def _add(self, entry: Entry) -> int:
        if entry.name in self.positions:
            raise UsageError(f"two tensors are named {entry.name!r}; names must be unique")
        position = len(self.entries)
        if position >= MAX_TENSORS:
            raise UsageError(f"more than {MAX_TENSORS} tensors; split the model over several files")
        self.positions[entry.name] = position
        if entry.tensor is None:
            target = self.positions[entry.tied_to or ""]
            first = self.entries[target].tied_to
            target = target if first is None else first
            common = self.entries[target].common
            self.entries.append(TensorEntry(entry.name, common, None, False, entry.note, (), target, entry.copied))
            return position
        tensor = entry.tensor
        if len(tensor.shape) > MAX_RANK:
            raise UsageError(f"tensor {entry.name!r} has rank {len(tensor.shape)}; at most {MAX_RANK} is possible")
        wire_type(tensor.dtype, entry.name)
        common = Common(tensor.shape, tensor.dtype)
        masked = tensor.mask is not None
        self.entries.append(TensorEntry(entry.name, common, params_of(tensor), masked, entry.note, ()))
        return position

    def _shared_tables(self, position: int, tensor: CompressedTensor) -> dict[str, int]:
        """Distances to earlier tensors that have the very same table (tied codebooks are stored once)."""
        shared = {}
        params = params_of(tensor)
        for table in params.tables(tensor.shape):
            words = to_words(params.table(tensor, table.role), wire_type(table.dtype, table.role))
            if words.nbytes < 8:
                continue  # a reference would not be smaller
            key = (table, words.tobytes() if words.nbytes <= 1024 else _digest(words))
            first = self.tables.setdefault(key, position)
            if first != position:
                shared[table.role] = position - first
        return shared

    def encode_chunk(self, chunk: list[_Item | tuple[str, bytes]]) -> bytes:
        """The bytes of a chunk. Runs in any thread; what it records has a place of its own."""
        state = State()
        blobs: list[bytes] = []
        for item in chunk:
            if isinstance(item, _Item):
                sections = self._encode_segment(item, state, blobs)
                self.sections[item.tensor, item.number] = tuple(sections)
            else:
                name, data = item
                blob, method = encode_attachment(data)
                self.attachments[name] = Section("attachment", method, len(blob))
                blobs.append(blob)
        return b"".join(blobs)

    def _encode_segment(self, item: _Item, state: State, blobs: list[bytes]) -> list[Section]:
        value, part = item.value, item.part
        params = params_of(value)
        mask = None if value.mask is None else value.mask.reshape(-1)[item.start : item.start + part.elements]
        sections = []
        for role in section_roles(params, value.shape, mask is not None, item.number):
            if role in item.shared:
                sections.append(Section(role, METHOD_SHARED, 0, item.shared[role]))
                continue
            if role == "mask":
                assert mask is not None
                method, blob = encode_mask(mask.numpy(), part, self.coding, state)
            elif role == "codes":
                method, blob = self._encode_codes(item, mask, state)
            else:
                table = next(table for table in params.tables(value.shape) if table.role == role)
                method, blob = self._encode_table(params.table(value, role), table, state)
            sections.append(Section(role, method, len(blob)))
            blobs.append(blob)
        return sections

    def _encode_codes(self, item: _Item, mask: Tensor | None, state: State) -> tuple[Method, bytes]:
        params = params_of(item.value)
        part = item.part
        codes = params.codes(item.value).reshape(-1)[item.start : item.start + part.elements]
        if params.symbol_bits is None:
            if mask is not None:
                part = Geometry(1, int(mask.sum()))
            return self._encode_array(codes, part, mask, state)
        symbols = np.ascontiguousarray(codes.numpy())
        where = None if mask is None else np.ascontiguousarray(mask.numpy())
        if params.states > 1 and symbols.size:
            try:
                symbols = to_indices(symbols, part.row_length, params.states, where)
            except MismatchError as error:
                error.args = (f"tensor {self.entries[item.tensor].name!r}: {error.args[0]}",)
                raise
        return encode_symbols(symbols, part, params.symbol_bits, self.coding, state, where, params.states)

    def _encode_table(self, values: Tensor, table: Table, state: State) -> tuple[Method, bytes]:
        if table.symbols:
            return encode_small_numbers(np.ascontiguousarray(values.reshape(-1).numpy()), self.coding, state)
        return self._encode_array(values, geometry(table.shape), None, state)

    def _encode_array(self, values: Tensor, part: Geometry, mask: Tensor | None, state: State) -> tuple[Method, bytes]:
        row = wire_type(values.dtype, "values")
        words = kept(to_words(values, row), mask, row.words)
        lanes = Geometry(part.rows, part.columns * row.words, part.kernel)
        return encode_array(words, row.kind, lanes, self.coding, state)

    def index(self, source: str, attachments: Iterable[str]) -> Index:
        """The index of all that was encoded; `attachments` in the order of the file."""
        tensors = []
        for position, entry in enumerate(self.entries):
            count = 0 if entry.params is None else len(segment_geometries(entry.common.shape))
            segments = tuple(self.sections[position, number] for number in range(count))
            tensors.append(replace(entry, segments=segments))
        attached = tuple(AttachmentEntry(name, self.attachments[name]) for name in attachments)
        return Index(source, tuple(tensors), attached, tuple(self.chunk_items))


def _digest(words: np.ndarray) -> bytes:
    digest = ContentId()
    digest.update(words)
    return digest.digest()
