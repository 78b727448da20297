"""The closed registry of representations in a .tsr file: what each stores, and how it is put together again.

Legend: O output channels (rows), N weights a row, G groups a row, T codebooks, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tersor.container.dtypes import WireType, wire_type, wire_type_of
from tersor.container.params import MAX_ELEMENTS, Common, Params, Table
from tersor.container.uniform_params import UniformParams
from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError
from tersor.layers import matrix_shape
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Patched, SignedZeros, Ternary


@dataclass(frozen=True)
class DenseParams(Params):
    """Values as they are, or in a narrower float."""

    number = 0
    represents = Dense

    values: WireType

    @classmethod
    def of(cls, tensor: Dense) -> DenseParams:
        """See `Params`."""
        return cls(wire_type(tensor.values.dtype, "values"))

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        out.byte(self.values.number)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> DenseParams:
        """See `Params`."""
        values = wire_type_of(source.byte())
        if values.dtype != common.dtype:
            common.check_real(f"values of {values.dtype}")
            if values.dtype.is_complex:
                raise CorruptFileError(f"values of {values.dtype} for a tensor of {common.dtype}")
        return cls(values)

    def code_words(self) -> WireType:
        """See `Params`."""
        return self.values

    def codes(self, tensor: Dense) -> Tensor:
        """See `Params`."""
        return tensor.values

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Dense:
        """See `Params`."""
        return Dense(common.shape, common.dtype, mask, codes)


_OWN = 0x80


@dataclass(frozen=True)
class CodebookParams(Params):
    """T codebooks of K centroids of the dtype `values`: float32 or the tensor's own."""

    number = 2
    represents = Codebook

    bits: int
    books: int
    centroids: int
    values: torch.dtype

    @classmethod
    def of(cls, tensor: Codebook) -> CodebookParams:
        """See `Params`."""
        books, centroids = tensor.codebook.shape
        return cls(tensor.bits, books, centroids, tensor.codebook.dtype)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        out.byte(self.bits - 1 | (0 if self.values == torch.float32 else _OWN))
        out.varint(self.books)
        out.varint(self.centroids)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> CodebookParams:
        """See `Params`."""
        byte = source.byte()
        own, bits = bool(byte & _OWN), (byte & ~_OWN) + 1
        if own and (common.dtype == torch.float32 or common.dtype.is_complex):
            raise CorruptFileError(f"a codebook of exact values of {common.dtype}")
        if not own:
            common.check_real("a codebook of float32")
        if bits > 8:
            raise CorruptFileError(f"a codebook of {bits} bits; at most 8 are possible")
        rows = matrix_shape(common.shape)[0]
        books = source.varint(max(rows, 1), "number of codebooks")
        centroids = source.varint(1 << bits, "number of centroids")
        if books == 0 or (centroids == 0 and common.shape.numel() > 0):
            raise CorruptFileError("an empty codebook")
        return cls(bits, books, centroids, common.dtype if own else torch.float32)

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        return [Table("codebook", self.values, (self.books, self.centroids))]

    @property
    def symbol_bits(self) -> int:
        """See `Params`."""
        return self.bits

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.uint8, "codes")

    def codes(self, tensor: Codebook) -> Tensor:
        """See `Params`."""
        return tensor.codes

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Codebook:
        """See `Params`."""
        return Codebook(common.shape, common.dtype, mask, self.bits, self.checked(codes), tables[0])

    def checked(self, codes: Tensor) -> Tensor:
        """See `Params`."""
        if codes.numel() and int(codes.max()) >= self.centroids:
            raise CorruptFileError(f"a code {int(codes.max())} points outside of a codebook of {self.centroids}")
        return codes


@dataclass(frozen=True)
class _Scaled(Params):
    """What binary and ternary share: one scale a tensor or one a row."""

    per_row: bool

    @classmethod
    def of(cls, tensor: Any) -> _Scaled:
        """See `Params`."""
        rows = matrix_shape(tensor.shape)[0]
        return cls(rows != 1 and tensor.scale.shape[0] == rows)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        out.byte(int(self.per_row))

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> _Scaled:
        """See `Params`."""
        byte = source.byte()
        common.check_real("a grid")
        if byte > 1:
            raise CorruptFileError(f"unknown parameters {byte:#x} of a binary or ternary tensor")
        return cls(bool(byte))

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        return [Table("scale", torch.float32, (matrix_shape(shape)[0] if self.per_row else 1, 1))]


@dataclass(frozen=True)
class BinaryParams(_Scaled):
    """Signs as one-bit symbols."""

    number = 4
    represents = Binary

    @property
    def symbol_bits(self) -> int:
        """See `Params`."""
        return 1

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.uint8, "signs")

    def codes(self, tensor: Binary) -> Tensor:
        """See `Params`."""
        return tensor.signs.view(torch.uint8)

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Binary:
        """See `Params`."""
        return Binary(common.shape, common.dtype, mask, self.checked(codes), tables[0])

    def checked(self, codes: Tensor) -> Tensor:
        """See `Params`."""
        if codes.numel() and int(codes.max()) > 1:
            raise CorruptFileError("a sign that is neither 0 nor 1")
        return codes.view(torch.bool)


@dataclass(frozen=True)
class TernaryParams(_Scaled):
    """Codes -1, 0, 1 as two-bit symbols."""

    number = 5
    represents = Ternary

    @property
    def symbol_bits(self) -> int:
        """See `Params`."""
        return 2

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.int8, "codes")

    def codes(self, tensor: Ternary) -> Tensor:
        """See `Params`."""
        return tensor.codes

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Ternary:
        """See `Params`."""
        return Ternary(common.shape, common.dtype, mask, self.checked(codes), tables[0])

    def checked(self, codes: Tensor) -> Tensor:
        """See `Params`."""
        if codes.numel() and int(codes.min()) < -1:
            raise CorruptFileError("a ternary code below -1")
        return codes


@dataclass(frozen=True)
class _Wrapped(Params):
    """What patched tensors and signed zeros share: another representation, whose mask and codes are theirs."""

    base: Params

    @staticmethod
    def _read_base(source: ByteReader, common: Common) -> Params:
        kind = kind_of(source.byte())
        if issubclass(kind, _Wrapped) or common.dtype.is_complex:
            raise CorruptFileError(f"a base of the kind {kind.number} and of {common.dtype}")
        return kind.read(source, common)

    def table(self, tensor: Patched | SignedZeros, role: str) -> Tensor:
        """See `Params`."""
        base = any(table.role == role for table in self.base.tables(tensor.shape))
        return self.base.table(tensor.base, role) if base else super().table(tensor, role)

    @property
    def symbol_bits(self) -> int | None:
        """See `Params`."""
        return self.base.symbol_bits

    @property
    def states(self) -> int:
        """See `Params`."""
        return self.base.states

    def code_words(self) -> WireType:
        """See `Params`."""
        return self.base.code_words()

    def codes(self, tensor: Patched | SignedZeros) -> Tensor:
        """See `Params`."""
        return self.base.codes(tensor.base)

    def checked(self, codes: Tensor) -> Tensor:
        """See `Params`."""
        return self.base.checked(codes)


@dataclass(frozen=True)
class PatchedParams(_Wrapped):
    """P runs of `run` values of the dtype `values`."""

    number = 6
    represents = Patched

    run: int
    patches: int
    values: torch.dtype

    @classmethod
    def of(cls, tensor: Patched) -> PatchedParams:
        """See `Params`."""
        return cls(params_of(tensor.base), tensor.run, tensor.places.numel(), tensor.dtype)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        out.byte(self.base.number)
        self.base.write(out)
        out.varint(self.run)
        out.varint(self.patches)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> PatchedParams:
        """See `Params`."""
        base = cls._read_base(source, common)
        run = source.varint(MAX_ELEMENTS, "weights of a patch")
        count = common.shape.numel()
        if run == 0 or count % run:
            raise CorruptFileError(f"{count} weights cannot be cut into runs of {run}")
        return cls(base, run, source.varint(count // run, "number of patches"), common.dtype)

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`. The places are stored as the runs left out before each."""
        gaps, values = (self.patches,), (self.patches, self.run)
        return [*self.base.tables(shape), Table("gaps", torch.int64, gaps), Table("values", self.values, values)]

    def table(self, tensor: Patched | SignedZeros, role: str) -> Tensor:
        """See `Params`."""
        if role != "gaps" or not isinstance(tensor, Patched):
            return super().table(tensor, role)
        return torch.diff(tensor.places, prepend=tensor.places.new_full((1,), -1)) - 1

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Patched:
        """See `Params`."""
        *others, gaps, values = tables
        runs = common.shape.numel() // self.run
        places = (gaps + 1).cumsum(0) - 1
        # Gaps below MAX_ELEMENTS: a sum that wraps around does not ascend.
        outside = bool(((gaps < 0) | (gaps >= runs) | (places >= runs)).any())
        if outside or bool((places.diff() <= 0).any()):
            raise CorruptFileError("a patch outside of its tensor")
        base = self.base.build(common, mask, others, codes)
        return Patched(common.shape, common.dtype, mask, base, self.run, places, values)


@dataclass(frozen=True)
class SignedZerosParams(_Wrapped):
    """The parameters of the base, and the signs of the weights that its mask prunes."""

    number = 7
    represents = SignedZeros

    @classmethod
    def of(cls, tensor: SignedZeros) -> SignedZerosParams:
        """See `Params`."""
        return cls(params_of(tensor.base))

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        out.byte(self.base.number)
        self.base.write(out)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> SignedZerosParams:
        """See `Params`."""
        common.check_real("signed zeros")
        return cls(cls._read_base(source, common))

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        return [*self.base.tables(shape), Table("negative", torch.bool, matrix_shape(shape))]

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> SignedZeros:
        """See `Params`."""
        base = self.base.build(common, mask, tables[:-1], codes)
        return SignedZeros(common.shape, common.dtype, mask, base, tables[-1])


KINDS: tuple[type[Params], ...] = (
    DenseParams,
    UniformParams,
    CodebookParams,
    BinaryParams,
    TernaryParams,
    PatchedParams,
    SignedZerosParams,
)
COPY, TIE = 14, 15
_BY_NUMBER = {kind.number: kind for kind in KINDS}
_BY_CLASS = {kind.represents: kind for kind in KINDS}


def params_of(tensor: CompressedTensor) -> Params:
    """Parameters of any CompressedTensor."""
    return _BY_CLASS[type(tensor)].of(tensor)


def kind_of(number: int) -> type[Params]:
    """The kind of a number read from a file; CorruptFileError if there is none."""
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise CorruptFileError(f"kind {number} is unknown; the file may need a newer tersor") from None


def kept(values: np.ndarray, mask: Tensor | None, words: int) -> np.ndarray:
    """Flat `values` (of `words` words an element) at the positions that `mask` (flat bool) keeps."""
    if mask is None:
        return values
    flat = mask.numpy()
    return values[flat] if words == 1 else values.reshape(-1, words)[flat].reshape(-1)
