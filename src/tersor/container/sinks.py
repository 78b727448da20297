"""Where decoded segments of a tensor go: into its representation, or as values straight into memory.

Segments may come in any order and from several threads; each writes elements of its own. Positions are elements of
the flat tensor; segments of at most 2^20 elements cover it without gaps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

from tersor.container.dtypes import WireType, empty_words, from_words, wire_type
from tersor.container.index import TensorEntry
from tersor.container.kinds import DenseParams
from tersor.container.params import Params
from tersor.layers import matrix_shape
from tersor.tensors import CompressedTensor

Tables = dict[str, Tensor]


class Sink(ABC):
    """What a decoder of segments asks for: buffers, which it fills, and where to hand over the result."""

    takes_codes = True

    def __init__(self, entry: TensorEntry) -> None:
        assert entry.params is not None
        self.entry = entry
        self.params: Params = entry.params

    def wants(self, number: int, begin: int, end: int) -> bool:
        """Whether segment `number`, elements begin..end, is to be decoded into this sink."""
        return True

    def mask_of(self, begin: int, end: int) -> np.ndarray:
        """A bool buffer for the mask of the elements."""
        return np.empty(end - begin, np.bool_)

    def codes_of(self, begin: int, end: int) -> np.ndarray:
        """A buffer for the words (`params.code_words`) of the elements."""
        return empty_words(end - begin, self.params.code_words())

    @abstractmethod
    def add_table(self, role: str, table: Tensor) -> None:
        """Takes a table of the tensor: all of them before the first segment's codes."""

    @abstractmethod
    def finish(self, begin: int, end: int, codes: np.ndarray, mask: np.ndarray | None) -> None:
        """Takes back what `codes_of` and `mask_of` gave, filled; codes of pruned elements are zero."""


class Discard(Sink):
    """For segments that are decoded only for the state that they leave behind."""

    def add_table(self, role: str, table: Tensor) -> None:
        """See `Sink`."""

    def finish(self, begin: int, end: int, codes: np.ndarray, mask: np.ndarray | None) -> None:
        """See `Sink`."""


class OnlyTables(Sink):
    """Takes the tables of a tensor, which lie in its first segment, and leaves its codes undecoded."""

    takes_codes = False

    def __init__(self, entry: TensorEntry) -> None:
        super().__init__(entry)
        self.tables: Tables = {}

    def wants(self, number: int, begin: int, end: int) -> bool:
        """See `Sink`."""
        return number == 0

    def add_table(self, role: str, table: Tensor) -> None:
        """See `Sink`."""
        self.tables[role] = table

    def finish(self, begin: int, end: int, codes: np.ndarray, mask: np.ndarray | None) -> None:
        """See `Sink`."""


class Representation(Sink):
    """Puts a CompressedTensor together."""

    def __init__(self, entry: TensorEntry) -> None:
        super().__init__(entry)
        self.words: WireType = self.params.code_words()
        count = entry.common.shape.numel()
        self.codes = empty_words(count, self.words)
        self.mask = np.empty(count, np.bool_) if entry.masked else None
        self.tables: Tables = {}

    def mask_of(self, begin: int, end: int) -> np.ndarray:
        """See `Sink`."""
        assert self.mask is not None
        return self.mask[begin:end]

    def codes_of(self, begin: int, end: int) -> np.ndarray:
        """See `Sink`."""
        return self.codes[begin * self.words.words : end * self.words.words]

    def add_table(self, role: str, table: Tensor) -> None:
        """See `Sink`."""
        self.tables[role] = table

    def finish(self, begin: int, end: int, codes: np.ndarray, mask: np.ndarray | None) -> None:
        """See `Sink`."""

    def build(self, shared: Tables) -> CompressedTensor:
        """The tensor, once all segments are decoded. shared: tables that belong to other tensors."""
        shape = self.entry.common.shape
        mask = None if self.mask is None else torch.from_numpy(self.mask).reshape(shape)
        codes = from_words(self.codes, self.words, shape)
        return self.params.build(self.entry.common, mask, _ordered(self.entry, {**self.tables, **shared}), codes)


_NO_TABLES: Future[Tables] = Future()
_NO_TABLES.set_result({})


class Values(Sink):
    """Writes the elements begin..end of a tensor as values of its dtype.

    out: the words of those elements. shared: tables that belong to other tensors, as soon as they are known.
    own: the tensor's own tables; None if its first segment will bring them.
    Exact and unmasked tensors are decoded into `out` itself; others a segment at a time through small buffers.
    """

    def __init__(
        self,
        entry: TensorEntry,
        out: np.ndarray,
        begin: int,
        end: int,
        *,
        shared: dict[str, Future[Tables]],
        own: Tables | None = None,
    ) -> None:
        super().__init__(entry)
        self.out, self.begin, self.end = out, begin, end
        self.words = wire_type(entry.common.dtype, entry.name)
        self.exact = isinstance(self.params, DenseParams) and self.params.values == self.words
        self.shared = shared
        self.own = _NO_TABLES
        self._whole: CompressedTensor | None = None
        self._tables: Tables = {}
        self._missing = {table.role for table in self.params.tables(entry.common.shape)} - set(shared)
        if self._missing:
            self.own = Future()
            if own is not None:
                self._missing = set()
                self.own.set_result(own)

    def wants(self, number: int, begin: int, end: int) -> bool:
        """See `Sink`."""
        inside = max(begin, self.begin) < min(end, self.end) or begin == end
        return inside or (number == 0 and not self.own.done())

    def codes_of(self, begin: int, end: int) -> np.ndarray:
        """See `Sink`."""
        if self.exact and self.begin <= begin and end <= self.end:
            return self._window(begin, end)
        return super().codes_of(begin, end)

    def add_table(self, role: str, table: Tensor) -> None:
        """See `Sink`."""
        self._tables[role] = table
        if self._missing and self._missing <= set(self._tables):
            self._missing = set()
            self.own.set_result(self._tables)

    def finish(self, begin: int, end: int, codes: np.ndarray, mask: np.ndarray | None) -> None:
        """See `Sink`."""
        first, last = max(begin, self.begin), min(end, self.end)
        if first >= last:
            return
        words = self.params.code_words()
        if self.exact:
            if not np.may_share_memory(codes, self.out):
                self._window(first, last)[:] = codes[(first - begin) * words.words : (last - begin) * words.words]
            return
        whole = self._skeleton()
        per_weight = self.params.checked(from_words(codes, words, (end - begin,)))
        out = from_words(self.out, self.words, (self.end - self.begin,))
        kept = None if mask is None else torch.from_numpy(mask)
        for start, row, column in _matrix_blocks(first, last, matrix_shape(self.entry.common.shape)[1]):
            size = (row.stop - row.start, column.stop - column.start)
            piece = slice(start - begin, start - begin + size[0] * size[1])
            mask_block = None if kept is None else kept[piece].reshape(size)
            values = whole.dequantize_block(per_weight[piece].reshape(size), mask_block, row, column)
            out[start - self.begin : start - self.begin + values.numel()] = values.reshape(-1)

    def _skeleton(self) -> CompressedTensor:
        """The tensor without codes; waits for the thread that decodes its tables."""
        if self._whole is None:
            shared = {role: owner.result()[role] for role, owner in self.shared.items()}
            tables = _ordered(self.entry, {**self.own.result(), **shared})
            no_codes = from_words(empty_words(0, self.params.code_words()), self.params.code_words(), (0,))
            self._whole = self.params.build(self.entry.common, None, tables, no_codes)
        return self._whole

    def fail(self, error: BaseException) -> None:
        """Lets no one wait for tables that will not come: call it where the first segment was not decoded."""
        if not self.own.done():
            self.own.set_exception(error)

    def _window(self, begin: int, end: int) -> np.ndarray:
        words = self.words.words
        return self.out[(begin - self.begin) * words : (end - self.begin) * words]


def _ordered(entry: TensorEntry, tables: Tables) -> list[Tensor]:
    assert entry.params is not None
    return [tables[table.role] for table in entry.params.tables(entry.common.shape)]


def _matrix_blocks(begin: int, end: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Blocks of a matrix of rows of `length` that cover its elements begin..end: (first element, rows, columns).

    At most three: the rest of a row, whole rows, the head of a row.
    """
    while begin < end:
        row, column = divmod(begin, length)
        rows = (end - begin) // length if column == 0 else 0
        if rows:
            yield begin, slice(row, row + rows), slice(0, length)
            begin += rows * length
        else:
            stop = min(length, column + end - begin)
            yield begin, slice(row, row + 1), slice(column, stop)
            begin += stop - column
