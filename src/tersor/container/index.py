"""The index of a .tsr file: what it holds, and where (docs/format.md, section "Index")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tersor.coding import Method
from tersor.container.dtypes import wire_type, wire_type_of
from tersor.container.kinds import COPY, TIE, kind_of
from tersor.container.params import MAX_ELEMENTS, SEGMENT, Common, Params
from tersor.container.text import compress_text, decompress_text
from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError, LimitError, UsageError
from tersor.layers import Geometry, geometry

MAGIC = b"\x89TSR"
VERSION = 1
PROLOGUE = len(MAGIC) + 1
TRAILER = 4 + 16 + 8  # tail size, content id, checksum
CHECKSUM = 8

MAX_INDEX = 64 << 20
MAX_TENSORS = 1 << 20
MAX_ATTACHMENTS = 1 << 16
MAX_ATTACHMENT = 1 << 30
MAX_RANK = 8

SOURCES = ("state_dict", "safetensors", "huggingface", "torch", "npz", "onnx", "gguf")
# Methods beside those of `coding.Method`.
METHOD_SHARED = 7
METHOD_TEXT = 8
METHOD_XZ = 9
_MAX_BYTES = (1 << 62) - 1
_INDEX_PART = 512  # of the payload: an index that is a smaller part is not coded where speed counts
_NOTED, _MASKED = 0x40, 0x80


@dataclass(frozen=True)
class Section:
    """A blob: how it is coded and how many bytes it takes. distance: for shared tables, else 0."""

    role: str
    method: int
    size: int
    distance: int = 0


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the index. segments: the sections of each of its items. tied_to: index of another entry.

    copied: it is equal to that entry, in memory of its own.
    """

    name: str
    common: Common
    params: Params | None
    masked: bool
    note: str | None
    segments: tuple[tuple[Section, ...], ...]
    tied_to: int | None = None
    copied: bool = False

    @property
    def stored_bytes(self) -> int:
        """Bytes that the tensor takes in the payload."""
        return sum(section.size for segment in self.segments for section in segment)


@dataclass(frozen=True)
class AttachmentEntry:
    """An attachment of the index. `section` tells how it is stored."""

    name: str
    section: Section


@dataclass(frozen=True)
class Index:
    """chunk_items: number of items in each chunk."""

    source: str
    tensors: tuple[TensorEntry, ...]
    attachments: tuple[AttachmentEntry, ...]
    chunk_items: tuple[int, ...]

    def item_sizes(self) -> list[int]:
        """Bytes of every item of the file, in order."""
        sizes = [sum(s.size for s in segment) for tensor in self.tensors for segment in tensor.segments]
        return sizes + [attachment.section.size for attachment in self.attachments]


def segment_geometries(shape: torch.Size) -> list[Geometry]:
    """How a tensor of `shape` is cut into segments of at most 2^20 elements; at least one segment."""
    whole = geometry(shape)
    if whole.elements <= SEGMENT:
        return [whole]
    if whole.row_length <= SEGMENT:
        step = SEGMENT // whole.row_length
        return [
            Geometry(min(step, whole.rows - row), whole.columns, whole.kernel) for row in range(0, whole.rows, step)
        ]
    return [Geometry(1, min(SEGMENT, whole.elements - at)) for at in range(0, whole.elements, SEGMENT)]


def section_roles(params: Params, shape: torch.Size, masked: bool, segment: int) -> list[str]:
    """Roles of the sections of one segment, in the order of the file."""
    tables = [table.role for table in params.tables(shape)] if segment == 0 else []
    return (["mask"] if masked else []) + tables + ["codes"]


def encode_tail(index: Index, checksums: bytes, small: bool) -> bytes:
    """The tail: number of chunks, their checksums (8 bytes each), coded index. small: see `encode_index`."""
    head = ByteWriter()
    head.varint(len(index.chunk_items))
    tail = bytes(head.data) + checksums + encode_index(index, small)
    if len(tail) > MAX_INDEX:
        raise UsageError(f"an index of {len(tail)} bytes; at most {MAX_INDEX} are possible; split the model")
    return tail


def decode_tail(tail: bytes) -> tuple[Index, list[int]]:
    """The index and the chunks' checksums. CorruptFileError or LimitError where something does not hold."""
    head = ByteReader(tail)
    chunks = head.varint(len(tail) // CHECKSUM, "number of chunks")
    start, end = head.position, head.position + chunks * CHECKSUM
    if end > len(tail):
        raise CorruptFileError("the checksums do not fit into the tail")
    checksums = [int.from_bytes(tail[at : at + CHECKSUM], "little") for at in range(start, end, CHECKSUM)]
    return decode_index(tail[end:], chunks), checksums


def encode_index(index: Index, small: bool) -> bytes:
    """The coded index. UsageError for names that a file cannot hold.

    small: codes it however slowly it decodes; else only where it is a large part of the file.
    """
    out = ByteWriter()
    own = [t for t in index.tensors if t.tied_to is None]
    out.varint(len(index.tensors))
    out.varint(len(index.attachments))
    out.byte(SOURCES.index(index.source))
    for tensor in index.tensors:
        out.string(tensor.name, "tensor name")
    for attachment in index.attachments:
        out.string(attachment.name, "attachment name")
    for tensor in index.tensors:
        number = tensor.params.number if tensor.params is not None else COPY if tensor.copied else TIE
        out.byte(number | (_NOTED if tensor.note is not None else 0) | (_MASKED if tensor.masked else 0))
    for position, tensor in enumerate(index.tensors):
        if tensor.tied_to is not None:
            out.varint(position - tensor.tied_to)
    for tensor in index.tensors:
        if tensor.note is not None:
            out.string(tensor.note, f"note of {tensor.name}")
    for tensor in own:
        out.byte(wire_type(tensor.common.dtype, tensor.name).number)
    for tensor in own:
        out.byte(len(tensor.common.shape))
    for tensor in own:
        for dim in tensor.common.shape:
            out.varint(dim)
    for tensor in own:
        assert tensor.params is not None
        tensor.params.write(out)
    _write_sections(out, index, own)
    for items in index.chunk_items[:-1]:
        out.varint(items)
    raw = bytes(out.data)
    return _pack(raw, small or len(raw) > sum(index.item_sizes()) // _INDEX_PART)


def _write_sections(out: ByteWriter, index: Index, own: list[TensorEntry]) -> None:
    for tensor in own:
        for segment in tensor.segments:
            for section in segment:
                out.byte(section.method)
                if section.method == METHOD_SHARED:
                    out.varint(section.distance)
                elif section.method != Method.RAW or _size_unknown(tensor.masked, section.role):
                    out.varint(section.size)
    for attachment in index.attachments:
        out.byte(attachment.section.method)
        out.varint(attachment.section.size)


def _pack(raw: bytes, coded: bool) -> bytes:
    text = compress_text(raw) if coded else raw
    method, body = (1, text) if len(text) < len(raw) else (0, raw)
    head = ByteWriter()
    head.byte(method)
    head.varint(len(raw))
    return bytes(head.data) + body


def _unpack(coded: bytes) -> bytes:
    head = ByteReader(coded)
    method = head.byte()
    size = head.varint(MAX_INDEX, "size of the index")
    body = coded[head.position :]
    if method == 0 and len(body) == size:
        return body
    if method != 1:
        raise CorruptFileError(f"the index cannot be decoded (method {method}, {len(body)} bytes for {size})")
    return decompress_text(body, size)


def decode_index(coded: bytes, chunks: int) -> Index:
    """The index of `chunks` chunks, with everything in it checked. Raises as `decode_tail`."""
    source = ByteReader(_unpack(coded))
    count = source.varint(MAX_TENSORS, "number of tensors")
    attached = source.varint(MAX_ATTACHMENTS, "number of attachments")
    origin = source.byte()
    if origin >= len(SOURCES):
        raise CorruptFileError(f"source {origin} is unknown")
    names = [source.string("tensor name") for _ in range(count)]
    attachment_names = [source.string("attachment name") for _ in range(attached)]
    for kind, listed in (("tensors", names), ("attachments", attachment_names)):
        if len(set(listed)) != len(listed):
            raise CorruptFileError(f"two {kind} have the same name")
    kinds = source.column(count)
    ties = _read_ties(source, kinds)
    notes = [source.string("note") if kind & _NOTED else None for kind in kinds]
    own = [position for position in range(count) if ties[position] is None]
    commons = _read_commons(source, own)
    params: dict[int, Params] = {}
    for position in own:
        params[position] = kind_of(kinds[position] & 15).read(source, commons[position])
    entries: list[TensorEntry] = []
    for position, name in enumerate(names):
        masked = bool(kinds[position] & _MASKED)
        tie = ties[position]
        if tie is None:
            segments = _read_segments(source, entries, params[position], commons[position].shape, masked)
            entries.append(TensorEntry(name, commons[position], params[position], masked, notes[position], segments))
        else:
            target = entries[tie]
            copied = kinds[position] & 15 == COPY
            entries.append(TensorEntry(name, target.common, None, False, notes[position], (), tie, copied))
    attachments = tuple(AttachmentEntry(name, _read_attachment(source)) for name in attachment_names)
    items = sum(len(entry.segments) for entry in entries) + attached
    chunk_items = _read_chunks(source, chunks, items)
    source.end()
    return Index(SOURCES[origin], tuple(entries), attachments, chunk_items)


def _read_ties(source: ByteReader, kinds: bytes) -> list[int | None]:
    ties: list[int | None] = []
    for position, kind in enumerate(kinds):
        if kind & 15 not in (COPY, TIE):
            ties.append(None)
            continue
        target = position - source.varint(MAX_TENSORS, "distance of a tie")
        if not 0 <= target < position or ties[target] is not None or kind & _MASKED:
            raise CorruptFileError("a tied tensor that points nowhere")
        ties.append(target)
    return ties


def _read_commons(source: ByteReader, own: list[int]) -> dict[int, Common]:
    dtypes = [wire_type_of(number).dtype for number in source.column(len(own))]
    ranks = source.column(len(own))
    if any(rank > MAX_RANK for rank in ranks):
        raise LimitError(f"a tensor of rank {max(ranks)}; the limit is {MAX_RANK}")
    commons = {}
    for position, dtype, rank in zip(own, dtypes, ranks, strict=True):
        shape = torch.Size([source.varint(MAX_ELEMENTS, "a dimension") for _ in range(rank)])
        elements = 1
        for dim in shape:
            elements *= max(dim, 1)  # zero dimensions do not excuse absurd others
        if elements > MAX_ELEMENTS:
            raise LimitError(f"a tensor of shape {tuple(shape)}; at most {MAX_ELEMENTS} elements are allowed")
        commons[position] = Common(shape, dtype)
    return commons


def _read_segments(
    source: ByteReader, earlier: list[TensorEntry], params: Params, shape: torch.Size, masked: bool
) -> tuple[tuple[Section, ...], ...]:
    segments = []
    for number, part in enumerate(segment_geometries(shape)):
        sections = []
        for role in section_roles(params, shape, masked, number):
            sections.append(_read_section(source, role, earlier, params, shape, part, masked))
        segments.append(tuple(sections))
    return tuple(segments)


def _read_section(
    source: ByteReader,
    role: str,
    earlier: list[TensorEntry],
    params: Params,
    shape: torch.Size,
    part: Geometry,
    masked: bool,
) -> Section:
    method = source.byte()
    if method == METHOD_SHARED:
        distance = source.varint(MAX_TENSORS, "distance of a shared table")
        target = len(earlier) - distance
        if role in ("mask", "codes") or not 0 <= target < len(earlier):
            raise CorruptFileError("a shared table that points nowhere")
        shared = earlier[target].params
        wanted = [table for table in params.tables(shape) if table.role == role]
        given = [] if shared is None else shared.tables(earlier[target].common.shape)
        original = [s for segment in earlier[target].segments[:1] for s in segment if s.role == role]
        if wanted[0] not in given or original[0].method == METHOD_SHARED:
            raise CorruptFileError("a shared table that does not fit")
        return Section(role, method, 0, distance)
    if method == Method.RAW and not _size_unknown(masked, role):
        return Section(role, method, _raw_size(role, params, shape, part))
    return Section(role, method, source.varint(_MAX_BYTES, "bytes of a section"))


def _size_unknown(masked: bool, role: str) -> bool:
    """Whether the index must give the size even of a raw section: how many codes a mask keeps is in the mask."""
    return masked and role == "codes"


def _raw_size(role: str, params: Params, shape: torch.Size, part: Geometry) -> int:
    """Bytes of a section stored as it is."""
    if role == "mask":
        return -(-part.elements // 8)
    if role != "codes":
        table = next(table for table in params.tables(shape) if table.role == role)
        count, words = torch.Size(table.shape).numel(), wire_type(table.dtype, role)
    elif params.symbol_bits is not None:
        return -(-part.elements * params.symbol_bits // 8)
    else:
        count, words = part.elements, params.code_words()
    if words.kind == "bool":
        return -(-count // 8)
    return count * words.words * words.word.itemsize


def _read_attachment(source: ByteReader) -> Section:
    method = source.byte()
    if method not in (Method.RAW, METHOD_TEXT, METHOD_XZ):
        raise CorruptFileError(f"an attachment stored by the unknown method {method}")
    return Section("attachment", method, source.varint(MAX_ATTACHMENT, "bytes of an attachment"))


def _read_chunks(source: ByteReader, chunks: int, items: int) -> tuple[int, ...]:
    if chunks > items or (chunks == 0) != (items == 0):
        raise CorruptFileError(f"{chunks} chunks for {items} items")
    counts = [source.varint(items, "items of a chunk") for _ in range(chunks - 1)]
    if chunks:
        counts.append(items - sum(counts))
    if any(count < 1 for count in counts):
        raise CorruptFileError("a chunk without items")
    return tuple(counts)
