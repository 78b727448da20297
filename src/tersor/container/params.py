"""What every kind of representation in a .tsr file has: parameters, tables, codes, and a way in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tersor.container.dtypes import WireType
from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError
from tersor.tensors import CompressedTensor

MAX_ELEMENTS = 1 << 40


@dataclass(frozen=True)
class Common:
    """What the index says of every tensor, whatever its kind."""

    shape: torch.Size
    dtype: torch.dtype

    def check_real(self, what: str) -> None:
        """CorruptFileError unless the tensor is one of real floats."""
        if not self.dtype.is_floating_point:
            raise CorruptFileError(f"{what} for a tensor of {self.dtype}")


@dataclass(frozen=True)
class Table:
    """A small array that belongs to the whole tensor."""

    role: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Params(ABC):
    """Parameters of one tensor of a kind: a subclass a kind, with the kind's way in and out of a file."""

    number: ClassVar[int]
    represents: ClassVar[type[CompressedTensor]]

    @classmethod
    @abstractmethod
    def of(cls, tensor: Any) -> Params:
        """Parameters of a CompressedTensor of this kind."""

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether a tensor of this kind can stand for one of `dtype`."""
        return dtype.is_floating_point

    @abstractmethod
    def write(self, out: ByteWriter) -> None:
        """Into the index."""

    @classmethod
    @abstractmethod
    def read(cls, source: ByteReader, common: Common) -> Params:
        """From the index; CorruptFileError for what makes no sense."""

    def tables(self, shape: torch.Size) -> list[Table]:
        """The tables of a tensor of `shape`, in the order of the file."""
        return []

    def table(self, tensor: Any, role: str) -> Tensor:
        """The table `role` of `tensor`, of the dtype and shape that `tables` says."""
        table: Tensor = getattr(tensor, role)
        return table

    @property
    def symbol_bits(self) -> int | None:
        """Width of the codes, or None where the codes are an array of values."""
        return None

    @abstractmethod
    def code_words(self) -> WireType:
        """Type of the array that holds the codes."""

    @abstractmethod
    def codes(self, tensor: Any) -> Tensor:
        """The codes of `tensor` as a file holds them, of its shape and of the dtype of `code_words`."""

    @abstractmethod
    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> CompressedTensor:
        """The tensor. CorruptFileError where codes point outside of their tables."""

    @property
    def blockwise(self) -> bool:
        """Whether a block can be dequantized without the blocks before it: with its codes, its mask and the tables."""
        return True

    def skeleton(self, common: Common, tables: list[Tensor]) -> CompressedTensor:
        """The tensor without mask and codes: enough for its `dequantize_block`."""
        words = self.code_words()
        return self.build(common, None, tables, torch.empty(0, dtype=words.dtype))

    def block(self, whole: CompressedTensor, codes: Tensor, row: slice, column: slice) -> Tensor:
        """What `per_weight` of `whole` (a skeleton will do) holds of a block, out of its codes as a file holds them.

        codes: (rows, columns) of the matrix. CorruptFileError where they point outside of their tables.
        """
        tables = [self.table(whole, table.role) for table in self.tables(whole.shape)]
        return self.build(Common(codes.shape, whole.dtype), None, tables, codes).per_weight
