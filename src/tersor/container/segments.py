"""Segments of tensors out of the bytes of a chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersor.coding import Method, State, decode_array, decode_mask, decode_symbols
from tersor.container.dtypes import WireType, empty_words, from_words, wire_type
from tersor.container.index import METHOD_SHARED, Index, Section, TensorEntry
from tersor.container.kinds import Table
from tersor.errors import CorruptFileError
from tersor.layers import Geometry, geometry
from tersor.tensors import CompressedTensor

_STATELESS = (Method.RAW, Method.RANS, Method.HUFFMAN, METHOD_SHARED)


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


class Target:
    """A tensor that is being put together; its segments write disjoint slices of its buffers, in any order."""

    def __init__(self, entry: TensorEntry) -> None:
        assert entry.params is not None
        self.entry = entry
        self.params = entry.params
        count = entry.common.shape.numel()
        self.codes = empty_words(count, self.params.code_words())
        if entry.masked:
            self.codes[:] = 0
        self.mask = np.empty(count, np.bool_) if entry.masked else None
        self.tables: dict[str, Tensor] = {}

    def build(self, shared: dict[str, Tensor]) -> CompressedTensor:
        """The tensor, once all segments are decoded. shared: tables that belong to other tensors."""
        shape = self.entry.common.shape
        mask = None if self.mask is None else torch.from_numpy(self.mask).reshape(shape)
        codes = from_words(self.codes, self.params.code_words(), shape)
        tables = {**self.tables, **shared}
        ordered = [tables[table.role] for table in self.params.tables(shape)]
        return self.params.build(self.entry.common, mask, ordered, codes)


def decode_items(data: bytes, items: list[Item], index: Index, targets: dict[int, Target]) -> None:
    """Decodes the segments of `targets` (by position in the index) that lie in the chunk `data` of `items`.

    Other segments are decoded, too, as far as the adaptive state that they leave behind is needed.
    """
    state = State()
    view = memoryview(data)
    last = max((number for number, item in enumerate(items) if item.tensor in targets), default=-1)
    offset = 0
    for item in items[: last + 1]:
        assert item.tensor is not None
        entry = index.tensors[item.tensor]
        target = targets.get(item.tensor)
        if target is not None or any(section.method not in _STATELESS for section in entry.segments[item.number]):
            _decode_segment(view[offset : offset + item.size], item, target or Target(entry), state)
        offset += item.size


def _decode_segment(view: memoryview, item: Item, target: Target, state: State) -> None:
    assert item.part is not None
    shape = target.entry.common.shape
    tables = {table.role: table for table in target.params.tables(shape)}
    mask = None
    offset = 0
    for section in target.entry.segments[item.number]:
        blob = view[offset : offset + section.size]
        offset += section.size
        if section.method == METHOD_SHARED:
            continue
        if section.role == "mask":
            assert target.mask is not None
            mask = target.mask[item.start : item.start + item.part.elements]
            decode_mask(Method(section.method), blob, mask.view(np.uint8), item.part, state)
        elif section.role == "codes":
            _decode_codes(blob, section, item, target, mask, state)
        else:
            target.tables[section.role] = _decode_table(blob, section, tables[section.role], state)


def _decode_table(blob: memoryview, section: Section, table: Table, state: State) -> Tensor:
    row = wire_type(table.dtype, table.role)
    words = empty_words(torch.Size(table.shape).numel(), row)
    decode_array(_method(section), blob, words, row.kind, geometry(table.shape), state)
    return from_words(words, row, table.shape)


def _decode_codes(
    blob: memoryview, section: Section, item: Item, target: Target, mask: np.ndarray | None, state: State
) -> None:
    assert item.part is not None
    row = target.params.code_words()
    bits = target.params.symbol_bits
    out = target.codes[item.start * row.words : (item.start + item.part.elements) * row.words]
    if bits is not None:
        view = out.view(np.dtype(f"i{out.itemsize}")) if row.kind == "signed" else out
        decode_symbols(_method(section), blob, view, item.part, bits, state, mask)
    elif mask is None:
        _decode_words(blob, section, out, item.part, row, state)
    else:
        kept = Geometry(1, int(np.count_nonzero(mask)))
        words = empty_words(kept.elements, row)
        _decode_words(blob, section, words, kept, row, state)
        out.reshape(-1, row.words)[mask] = words.reshape(-1, row.words)


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
