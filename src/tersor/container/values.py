"""Values of tensors out of a .tsr file into memory that the caller owns: whole, or a run of elements.

Positions of tensors are places in the index; positions of elements are those of the flat tensor.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np

from tersor.container.dtypes import empty_words, wire_type
from tersor.container.reader import Reader
from tersor.container.segments import decode_items
from tersor.container.sinks import Tables, Values


def check_chunks(reader: Reader, executor: Executor | None) -> None:
    """CorruptFileError if the checksum of any chunk fails."""
    with reader.named_errors():
        for _ in reader.in_order(lambda chunk: len(reader.chunk(chunk)), range(len(reader.chunks)), executor):
            pass


def fill(reader: Reader, outs: Mapping[int, np.ndarray], executor: Executor | None) -> None:
    """Decodes tensors into `outs`: by position (of no tied tensor), the words of their dtypes.

    Reads and checks the chunks that hold them, several at a time if there is an executor. A tensor that is stored once
    for several is decoded once.
    Raises CorruptFileError; `outs` then hold anything.
    """
    reader.check_memory(outs)
    own: dict[int, np.ndarray] = {}
    copies: list[tuple[np.ndarray, np.ndarray]] = []
    for position, out in outs.items():
        first = own.setdefault(reader.content(position), out)
        if first is not out:
            copies.append((out, first))
    _fill_own(reader, own, executor)
    for out, first in copies:
        out[:] = first


def _fill_own(reader: Reader, outs: Mapping[int, np.ndarray], executor: Executor | None) -> None:
    sinks: dict[int, Values] = {}
    for position in sorted(outs):
        sinks[position] = _whole_sink(reader, position, outs[position], sinks)

    def decode(chunk: int) -> None:
        held = {item.tensor for item in reader.chunks[chunk] if item.tensor is not None and item.tensor in sinks}
        mine = {position: sinks[position] for position in held}
        try:
            decode_items(reader.chunk(chunk), reader.chunks[chunk], reader.index, mine)
        except BaseException as error:
            for position, sink in mine.items():
                if reader.chunks_of(position).start == chunk:
                    sink.fail(error)
            raise

    with reader.named_errors():
        wanted = sorted({chunk for position in outs for chunk in reader.chunks_of(position)})
        for _ in reader.in_order(decode, wanted, executor):
            pass


def _whole_sink(reader: Reader, position: int, out: np.ndarray, earlier: Mapping[int, Values]) -> Values:
    entry = reader.index.tensors[position]
    shared: dict[str, Future[Tables]] = {}
    for section in entry.segments[0]:
        if section.distance:
            owner = earlier.get(position - section.distance)
            shared[section.role] = _known(reader.shared_tables(position)) if owner is None else owner.own
    return Values(entry, out, 0, entry.common.shape.numel(), shared=shared)


def _known(tables: Tables) -> Future[Tables]:
    future: Future[Tables] = Future()
    future.set_result(tables)
    return future


class Run(NamedTuple):
    """Elements begin..end of a tensor, which lie in one chunk."""

    chunk: int
    begin: int
    end: int


class Elements:
    """Random access to the elements of the tensor at `position` (which has content of its own), chunk by chunk.

    count: number of elements. words: how one is stored. runs: the whole tensor, in order.
    Memory stays near one run: 2^20 elements.
    """

    def __init__(self, reader: Reader, position: int) -> None:
        self.reader, self.position = reader, position
        self.entry = reader.index.tensors[position]
        self.words = wire_type(self.entry.common.dtype, self.entry.name)
        self.count = self.entry.common.shape.numel()
        self.runs: list[Run] = []
        for chunk in reader.chunks_of(position):
            items = [item for item in reader.chunks[chunk] if item.tensor == position]
            ends = [item.start + (0 if item.part is None else item.part.elements) for item in items]
            self.runs.append(Run(chunk, items[0].start, ends[-1]))
        self._begins = [run.begin for run in self.runs]
        self._own: Tables | None = None
        self._shared: dict[str, Future[Tables]] = {}
        with reader.named_errors():
            self._shared = {role: _known({role: table}) for role, table in reader.shared_tables(position).items()}
            tables = () if self.entry.params is None else self.entry.params.tables(self.entry.common.shape)
            if len(self.entry.segments) > 1 and len(tables) > len(self._shared):
                self._own = reader.own_tables(position)

    def empty(self, count: int) -> np.ndarray:
        """Uninitialised words for `count` elements."""
        return empty_words(count, self.words)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The words of elements begin..end. Reads, checks and decodes the chunks that hold them."""
        out = self.empty(end - begin)
        sink = Values(self.entry, out, begin, end, shared=self._shared, own=self._own)
        with self.reader.named_errors():
            for run in self.runs[max(bisect_right(self._begins, begin) - 1, 0) :]:
                if run.begin >= end > 0:
                    break
                items = self.reader.chunks[run.chunk]
                decode_items(self.reader.chunk(run.chunk), items, self.reader.index, {self.position: sink})
        return out

    def read_runs(self, executor: Executor | None) -> Iterator[tuple[Run, np.ndarray]]:
        """Every run with its words, in order; an executor decodes a few ahead."""
        with self.reader.named_errors():
            yield from self.reader.in_order(lambda run: (run, self.read(run.begin, run.end)), self.runs, executor)

    def read_blocks(self, step: int, executor: Executor | None) -> Iterator[tuple[int, np.ndarray]]:
        """The tensor as (first element, words) of `step` elements each, the last one maybe shorter."""
        total, width = self.count, self.words.words
        begin = 0
        block = self.empty(min(step, total))
        for run, words in self.read_runs(executor):
            at = run.begin
            while at < run.end:
                stop = min(run.end, begin + step)
                block[(at - begin) * width : (stop - begin) * width] = words[
                    (at - run.begin) * width : (stop - run.begin) * width
                ]
                at = stop
                if at == min(begin + step, total):
                    yield begin, block
                    begin = at
                    block = self.empty(min(step, total - begin))
