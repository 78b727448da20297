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
SEGMENT = 1 << 20
"""Elements of a segment at most (docs/format.md)."""


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
    """A small array that belongs to the whole tensor. symbols: an int8 vector coded as symbols, not as an array."""

    role: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    symbols: bool = False


@dataclass(frozen=True)
class Params(ABC):
    """Parameters of one tensor of a kind: a subclass a kind, with the kind's way in and out of a file."""

    number: ClassVar[int]
    represents: ClassVar[type[CompressedTensor]]

    @classmethod
    @abstractmethod
    def of(cls, tensor: Any) -> Params:
        """Parameters of a CompressedTensor of this kind."""

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

    @property
    def states(self) -> int:
        """Of the trellis whose indices are stored in place of the codes; 1 for none."""
        return 1

    @abstractmethod
    def code_words(self) -> WireType:
        """Type of the array that holds the codes."""

    @abstractmethod
    def codes(self, tensor: Any) -> Tensor:
        """The codes of `tensor`, of its shape and of the dtype of `code_words`."""

    @abstractmethod
    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> CompressedTensor:
        """The tensor, of `checked` codes. CorruptFileError where a table makes no sense."""

    def checked(self, codes: Tensor) -> Tensor:
        """Codes of any shape as the tensor holds them (its `per_weight`); CorruptFileError where one makes no sense."""
        return codes
