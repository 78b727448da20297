"""Segments of tensors out of the bytes of a chunk, into sinks (sinks.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Size, Tensor

from tersor.coding import (
    Method,
    State,
    decode_array,
    decode_mask,
    decode_small_numbers,
    decode_symbols,
    into_codes,
)
from tersor.container.dtypes import WireType, empty_words, from_words, wire_type
from tersor.container.index import METHOD_SHARED, Index, Section
from tersor.container.kinds import Table
from tersor.container.sinks import Discard, Sink
from tersor.errors import CorruptFileError
from tersor.layers import Geometry, geometry

_STATELESS = (Method.RAW, Method.RANS, Method.HUFFMAN, Method.REGISTER, Method.BUCKETS, Method.FLOATS, METHOD_SHARED)


@dataclass(frozen=True)
class Item:
    """A segment (or attachment: tensor and part are None) of the file.

    tensor: position in the index. number: of the segment or attachment. start: its first element in the tensor.
    part: its geometry. size: its bytes.
    """

    tensor: int | None
    number: int
    start: int
    part: Geometry | None
    size: int


def decode_items(data: memoryview, items: list[Item], index: Index, sinks: Mapping[int, Sink]) -> None:
    """Decodes the segments of `sinks` (by position in the index) that lie in the chunk `data` of `items`.

    Other segments are decoded, too, as far as the adaptive state that they leave behind is needed.
    """
    state = State()
    wanted = [_wants(sinks, item) for item in items]
    last = max((number for number, want in enumerate(wanted) if want), default=-1)
    offset = 0
    for item, want in zip(items[: last + 1], wanted, strict=False):
        assert item.tensor is not None
        entry = index.tensors[item.tensor]
        if want:
            _decode_segment(data[offset : offset + item.size], item, sinks[item.tensor], state)
        elif any(section.method not in _STATELESS for section in entry.segments[item.number]):
            _decode_segment(data[offset : offset + item.size], item, Discard(entry), state)
        offset += item.size


def _wants(sinks: Mapping[int, Sink], item: Item) -> bool:
    if item.tensor is None or item.tensor not in sinks:
        return False
    assert item.part is not None
    return sinks[item.tensor].wants(item.number, item.start, item.start + item.part.elements)


def _decode_segment(view: memoryview, item: Item, sink: Sink, state: State) -> None:
    assert item.part is not None
    tables = {table.role: table for table in sink.params.tables(sink.entry.common.shape)}
    begin, end = item.start, item.start + item.part.elements
    mask = sink.mask_of(begin, end) if sink.entry.masked else None
    offset = 0
    for section in sink.entry.segments[item.number]:
        blob = view[offset : offset + section.size]
        offset += section.size
        if section.method == METHOD_SHARED:
            continue
        if section.role == "mask":
            assert mask is not None
            decode_mask(_method(section), blob, mask.view(np.uint8), item.part, state)
        elif section.role != "codes":
            sink.add_table(section.role, _decode_table(blob, section, tables[section.role], state))
        elif sink.takes_codes:
            codes = sink.codes_of(begin, end)
            _decode_codes(blob, section, item.part, sink, codes, mask, state)
            sink.finish(begin, end, codes, mask)


def _decode_table(blob: memoryview, section: Section, table: Table, state: State) -> Tensor:
    row = wire_type(table.dtype, table.role)
    words = empty_words(Size(table.shape).numel(), row)
    if table.symbols:
        decode_small_numbers(_method(section), blob, words.view(np.int8), state)
        return from_words(words, row, table.shape)
    decode_array(_method(section), blob, words, row.kind, geometry(table.shape), state)
    return from_words(words, row, table.shape)


def _decode_codes(
    blob: memoryview,
    section: Section,
    part: Geometry,
    sink: Sink,
    codes: np.ndarray,
    mask: np.ndarray | None,
    state: State,
) -> None:
    row = sink.params.code_words()
    bits = sink.params.symbol_bits
    if bits is not None:
        view = codes.view(np.dtype(f"i{codes.itemsize}")) if row.kind == "signed" else codes
        if mask is not None:
            codes[:] = 0
        states = sink.params.states
        decode_symbols(_method(section), blob, view, part, bits, state, mask, states)
        if states > 1 and view.size:
            into_codes(view, part.row_length, states, bits, mask)
    elif mask is None:
        _decode_words(blob, section, codes, part, row, state)
    else:
        kept = Geometry(1, int(np.count_nonzero(mask)))
        words = empty_words(kept.elements, row)
        _decode_words(blob, section, words, kept, row, state)
        codes[:] = 0
        codes.reshape(-1, row.words)[mask] = words.reshape(-1, row.words)


def _decode_words(
    blob: memoryview, section: Section, out: np.ndarray, part: Geometry, row: WireType, state: State
) -> None:
    lanes = Geometry(part.rows, part.columns * row.words, part.kernel)
    decode_array(_method(section), blob, out, row.kind, lanes, state)


def _method(section: Section) -> Method:
    try:
        return Method(section.method)
    except ValueError:
        raise CorruptFileError(f"method {section.method} is unknown; the file may need a newer tersor") from None
