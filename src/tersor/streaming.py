"""Tensors of a .tsr file one at a time, or in parts: for what is larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tersor.container.dtypes import empty_words, from_words, wire_type
from tersor.container.reader import Reader
from tersor.container.values import Elements, fill
from tersor.errors import UsageError, did_you_mean
from tersor.interop import TensorInfo
from tersor.parallel import thread_pool
from tersor.restore import tensor_infos

_BLOCK = 1 << 20  # elements


class TensorReader:
    """An open .tsr file, its tensors decoded when they are asked for. Made by `tersor.open`; a context manager.

    names: of all tensors, in the order of the file.
    Rows are slices along the first dimension: row i of a tensor of shape (10, 3, 5) has shape (3, 5), row i of a
    vector is one element. All tensors that are returned are new, contiguous and on the CPU.
    Every method raises UsageError for an unknown name or a closed file and CorruptFileError where the file is damaged.
    """

    def __init__(self, reader: Reader, threads: int | None) -> None:
        self._reader = reader
        self._infos = {info.name: info for info in tensor_infos(reader.index)}
        self.names: tuple[str, ...] = tuple(self._infos)
        self._last: tuple[int, Elements] | None = None
        self._closed = False
        self._stack = ExitStack()
        self._stack.callback(reader.close)
        try:
            self._executor = self._stack.enter_context(thread_pool(threads))
        except BaseException:
            self.close()
            raise

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype and what else is known of a tensor, without decoding it."""
        if self._closed:
            raise UsageError(f"{self._reader.name}: the reader is closed; open the file again")
        try:
            return self._infos[name]
        except KeyError:
            hint = did_you_mean(name, self.names)
            raise UsageError(f"{self._reader.name}: there is no tensor {name!r}{hint}") from None

    def read(self, name: str) -> Tensor:
        """A whole tensor. LimitError if it is larger than the machine's memory."""
        info = self.info(name)
        position = self._reader.position(name)
        self._reader.check_memory([position])
        row = wire_type(info.dtype, name)
        words = empty_words(torch.Size(info.shape).numel(), row)
        fill(self._reader, {position: words}, self._executor)
        return from_words(words, row, info.shape)

    def read_rows(self, name: str, begin: int, end: int) -> Tensor:
        """The rows begin..end (exclusive) of a tensor, as `read(name)[begin:end]`; only their chunks are decoded.

        UsageError unless 0 <= begin <= end <= rows, and for a scalar, which has none.
        """
        info = self.info(name)
        rows = info.shape[0] if info.shape else 0
        if not info.shape or not 0 <= begin <= end <= rows:
            raise UsageError(f"rows {begin} to {end} of tensor {name!r} of shape {info.shape} do not exist")
        elements = self._elements(name)
        length = _row_length(info)
        return _rows_of(info, elements, elements.read(begin * length, end * length), end - begin)

    def stream(self, name: str, rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """All rows of a tensor in order: (first row, block of rows), `rows` of them each, the last block maybe fewer.

        rows: None for what decodes fastest, about 2^20 elements, and at least a row.
        Memory stays near a block and the 2^20 elements that are decoded at once (with several threads: eight times as
        much), however large the tensor. A scalar comes as one block.
        """
        info = self.info(name)
        if rows is not None and rows < 1:
            raise UsageError(f"rows is {rows}; it must be at least 1")
        return self._stream(info, rows)

    def _stream(self, info: TensorInfo, rows: int | None) -> Iterator[tuple[int, Tensor]]:
        elements = self._elements(info.name)
        length = _row_length(info)
        if elements.count == 0:
            return
        if rows is None and length <= _BLOCK:
            for run, words in elements.read_runs(self._executor):
                yield run.begin // length, _rows_of(info, elements, words, (run.end - run.begin) // length)
            return
        for begin, words in elements.read_blocks((rows or 1) * length, self._executor):
            yield begin // length, _rows_of(info, elements, words, len(words) // elements.words.words // length)

    def _elements(self, name: str) -> Elements:
        position = self._reader.position(name)
        if self._last is None or self._last[0] != position:
            self._last = None
            self._last = position, Elements(self._reader, position)
        return self._last[1]

    def close(self) -> None:
        """Closes the file. Tensors that were read stay valid."""
        self._closed = True
        self._stack.close()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def open(
    path: str | os.PathLike[str] | IO[bytes], *, threads: int | None = None, max_bytes: int | None = None
) -> TensorReader:
    """Opens a .tsr file to read its tensors one at a time, or parts of tensors that do not fit into memory.

    path: of the file, which must not change while it is open; or a seekable binary file.
    threads: None for one a CPU.
    max_bytes: refuses files whose tensors take more, all together (LimitError).
    Raises InputError for an unreadable path, CorruptFileError for a damaged index. Chunks are checked when read.
    """
    return TensorReader(Reader(path, max_bytes=max_bytes), threads)


def _row_length(info: TensorInfo) -> int:
    length = 1
    for size in info.shape[1:]:
        length *= size
    return length


def _rows_of(info: TensorInfo, elements: Elements, words: np.ndarray, rows: int) -> Tensor:
    return from_words(words, elements.words, (rows, *info.shape[1:]) if info.shape else ())
