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
from tersor.container.wire import ByteReader, ByteWriter
from tersor.errors import CorruptFileError
from tersor.layers import matrix_shape
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Patched, Ternary, Uniform


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
        return cls(wire_type_of(source.byte()))

    def code_words(self) -> WireType:
        """See `Params`."""
        return self.values

    def codes(self, tensor: Dense) -> Tensor:
        """See `Params`."""
        return tensor.values

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Dense:
        """See `Params`."""
        return Dense(common.shape, common.dtype, mask, codes)


_TENSOR, _ROW, _GROUP = 0x00, 0x20, 0x40
_AFFINE, _OFFSET = 0x10, 0x80
_SIGNED_ZERO = _AFFINE | _OFFSET


@dataclass(frozen=True)
class UniformParams(Params):
    """group_size as in `tensors.Uniform`: 0 for the tensor, N for the row. affine, offset, signed_zero: at most one."""

    number = 1
    represents = Uniform

    bits: int
    affine: bool
    offset: bool
    group_size: int
    granularity: int
    signed_zero: bool = False

    @classmethod
    def of(cls, tensor: Uniform) -> UniformParams:
        """See `Params`."""
        length = matrix_shape(tensor.shape)[1]
        granularity = _TENSOR if tensor.group_size == 0 else _ROW if tensor.group_size == length else _GROUP
        affine, offset = tensor.zero is not None, tensor.offset is not None
        return cls(tensor.bits, affine, offset, tensor.group_size, granularity, tensor.signed_zero)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        flags = (_AFFINE if self.affine else 0) | (_OFFSET if self.offset else 0)
        flags |= _SIGNED_ZERO if self.signed_zero else 0
        out.byte(self.bits - 1 | flags | self.granularity)
        if self.granularity == _GROUP:
            out.varint(self.group_size)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> UniformParams:
        """See `Params`."""
        byte = source.byte()
        granularity = byte & 0x60
        start = byte & _SIGNED_ZERO
        if granularity == 0x60:
            raise CorruptFileError(f"unknown parameters {byte:#x} of a uniform tensor")
        length = matrix_shape(common.shape)[1]
        group = {_TENSOR: 0, _ROW: length}.get(granularity)
        if group is None:
            group = source.varint(MAX_ELEMENTS, "group size")
            if group == 0:
                raise CorruptFileError("a group size of 0")
        return cls((byte & 15) + 1, start == _AFFINE, start == _OFFSET, group, granularity, start == _SIGNED_ZERO)

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        rows, length = matrix_shape(shape)
        size = (1, 1) if self.granularity == _TENSOR else (rows, 1)
        if self.granularity == _GROUP:
            size = (rows, -(-length // self.group_size))
        tables = [Table("scale", torch.float32, size)]
        if self.affine:
            tables.append(Table("zero", torch.int32, size))
        if self.offset:
            tables.append(Table("offset", torch.float32, size))
        return tables

    @property
    def symbol_bits(self) -> int:
        """See `Params`."""
        return self.bits

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.int8 if self.bits <= 8 else torch.int16, "codes")

    def codes(self, tensor: Uniform) -> Tensor:
        """See `Params`."""
        return tensor.codes

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Uniform:
        """See `Params`."""
        zero = tables[1] if self.affine else None
        offset = tables[1] if self.offset else None
        return Uniform(
            common.shape,
            common.dtype,
            mask,
            self.bits,
            codes,
            tables[0],
            zero,
            self.group_size,
            offset,
            self.signed_zero,
        )


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
        if not own and not common.dtype.is_floating_point:
            raise CorruptFileError(f"a codebook of float32 for a tensor of {common.dtype}")
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
class PatchedParams(Params):
    """The parameters of the base, and P runs of `run` values of the dtype `values`."""

    number = 6
    represents = Patched

    base: Params
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
        kind = kind_of(source.byte())
        if kind is PatchedParams or common.dtype.is_complex:
            raise CorruptFileError("patches of what cannot be patched")
        base = kind.read(source, common)
        run = source.varint(MAX_ELEMENTS, "weights of a patch")
        count = common.shape.numel()
        if run == 0 or count % run:
            raise CorruptFileError(f"{count} weights cannot be cut into runs of {run}")
        return cls(base, run, source.varint(count // run, "number of patches"), common.dtype)

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        own = [Table("gaps", torch.int64, (self.patches,)), Table("values", self.values, (self.patches, self.run))]
        return self.base.tables(shape) + own

    def table(self, tensor: Patched, role: str) -> Tensor:
        """See `Params`. The places are stored as the runs left out before each."""
        if role == "gaps":
            return torch.diff(tensor.places, prepend=tensor.places.new_full((1,), -1)) - 1
        return tensor.values if role == "values" else self.base.table(tensor.base, role)

    @property
    def symbol_bits(self) -> int | None:
        """See `Params`."""
        return self.base.symbol_bits

    def code_words(self) -> WireType:
        """See `Params`."""
        return self.base.code_words()

    def codes(self, tensor: Patched) -> Tensor:
        """See `Params`."""
        return self.base.codes(tensor.base)

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Patched:
        """See `Params`."""
        *others, gaps, values = tables
        runs = common.shape.numel() // self.run
        if bool(((gaps < 0) | (gaps >= runs)).any()):
            raise CorruptFileError("a patch outside of its tensor")
        places = (gaps + 1).cumsum(0) - 1
        # A sum that wraps around cannot ascend: every step is less than MAX_ELEMENTS.
        if places.numel() and (
            int(places[-1]) >= runs or bool((places.diff(prepend=places.new_tensor([-1])) <= 0).any())
        ):
            raise CorruptFileError("a patch outside of its tensor")
        base = self.base.build(common, mask, others, codes)
        return Patched(common.shape, common.dtype, mask, base, self.run, places, values)

    def checked(self, codes: Tensor) -> Tensor:
        """See `Params`."""
        return self.base.checked(codes)


KINDS: tuple[type[Params], ...] = (
    DenseParams,
    UniformParams,
    CodebookParams,
    BinaryParams,
    TernaryParams,
    PatchedParams,
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
