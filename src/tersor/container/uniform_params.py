"""How uniform grids are stored: by their steps, or by what the steps follow from (extremes, multipliers).

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.container.dtypes import WireType, wire_type
from tersor.container.params import MAX_ELEMENTS, SEGMENT, Common, Params, Table
from tersor.container.wire import ByteReader, ByteWriter
from tersor.ends import steps_of_ends
from tersor.errors import CorruptFileError
from tersor.layers import matrix_shape
from tersor.octaves import steps_of_multipliers
from tersor.tensors import Uniform

_TENSOR, _ROW, _GROUP, _GROUP_ENDS = 0x00, 0x20, 0x40, 0x60
_AFFINE, _OFFSET = 0x10, 0x80
_SIGNED_ZERO = _AFFINE | _OFFSET
_PATH = _GROUP_ENDS | _AFFINE  # a second byte follows: states, and which steps
_BY_STATES = {1: 0, 4: 1, 8: 2}
_STATES = {number: states for states, number in _BY_STATES.items()}
_BY_ROW, _BASE = 0x04, 0x08


@dataclass(frozen=True)
class UniformParams(Params):
    """group_size as in `tensors.Uniform`: 0 for the tensor, N for the row. affine, offset, signed_zero: at most one.

    trellis: states. logarithmic: steps are stored as a base and multipliers. With either the grid is symmetric.
    """

    number = 1
    represents = Uniform

    bits: int
    affine: bool
    offset: bool
    group_size: int
    granularity: int
    signed_zero: bool = False
    trellis: int = 1
    logarithmic: bool = False

    @classmethod
    def of(cls, tensor: Uniform) -> UniformParams:
        """See `Params`. Rows longer than a segment are stored as codes, not as a path."""
        length = matrix_shape(tensor.shape)[1]
        granularity = _TENSOR if tensor.group_size == 0 else _ROW if tensor.group_size == length else _GROUP
        granularity = granularity if tensor.high is None else _GROUP_ENDS
        affine, offset = tensor.zero is not None, tensor.offset is not None
        trellis = tensor.trellis if length <= SEGMENT else 1
        start = (affine, offset, tensor.group_size, granularity, tensor.signed_zero)
        return cls(tensor.bits, *start, trellis, tensor.base is not None)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
        if self.trellis > 1 or self.logarithmic:
            out.byte(self.bits - 1 | _PATH)
            steps = (_BY_ROW if self.granularity == _ROW else 0) | (_BASE if self.logarithmic else 0)
            out.byte(_BY_STATES[self.trellis] | steps)
            return
        flags = (_AFFINE if self.affine else 0) | (_OFFSET if self.offset else 0)
        flags |= _SIGNED_ZERO if self.signed_zero else 0
        out.byte(self.bits - 1 | flags | self.granularity)
        if self.granularity in (_GROUP, _GROUP_ENDS):
            out.varint(self.group_size)

    @classmethod
    def read(cls, source: ByteReader, common: Common) -> UniformParams:
        """See `Params`."""
        common.check_real("a grid")
        byte = source.byte()
        granularity = byte & 0x60
        start = byte & _SIGNED_ZERO
        if granularity | start == _PATH:
            return cls._read_path(source, common, (byte & 15) + 1)
        if granularity == _GROUP_ENDS and start not in (0, _OFFSET):
            raise CorruptFileError(f"unknown parameters {byte:#x} of a uniform tensor")
        length = matrix_shape(common.shape)[1]
        group = {_TENSOR: 0, _ROW: length}.get(granularity)
        if group is None:
            group = source.varint(MAX_ELEMENTS, "group size")
            if group == 0:
                raise CorruptFileError("a group size of 0")
        return cls((byte & 15) + 1, start == _AFFINE, start == _OFFSET, group, granularity, start == _SIGNED_ZERO)

    @classmethod
    def _read_path(cls, source: ByteReader, common: Common, bits: int) -> UniformParams:
        byte = source.byte()
        states, kinds = _STATES.get(byte & 3), byte & ~3
        if states is None or kinds & ~(_BY_ROW | _BASE) or (states == 1 and not kinds & _BASE):
            raise CorruptFileError(f"unknown parameters {byte:#x} of a trellis")
        length = matrix_shape(common.shape)[1]
        if states > 1 and length > SEGMENT:
            raise CorruptFileError(f"a trellis of {length} weights a row; at most {SEGMENT} are possible")
        group, granularity = (length, _ROW) if kinds & _BY_ROW else (0, _TENSOR)
        return cls(bits, False, False, group, granularity, False, states, bool(kinds & _BASE))

    def tables(self, shape: torch.Size) -> list[Table]:
        """See `Params`."""
        rows, length = matrix_shape(shape)
        size = (1, 1) if self.granularity == _TENSOR else (rows, 1)
        if self.logarithmic:
            base = Table("base", torch.bfloat16, (1, 1))
            multipliers = Table("multipliers", torch.int8, size, symbols=True)
            return [base] if self.granularity == _TENSOR else [base, multipliers]
        if self.granularity in (_GROUP, _GROUP_ENDS):
            size = (rows, -(-length // self.group_size))
        if self.granularity == _GROUP_ENDS:
            return [Table(role, torch.bfloat16, size) for role in (("high", "low") if self.offset else ("high",))]
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

    @property
    def states(self) -> int:
        """See `Params`."""
        return self.trellis

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.int8 if self.bits <= 8 else torch.int16, "codes")

    def codes(self, tensor: Uniform) -> Tensor:
        """See `Params`."""
        return tensor.codes

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Uniform:
        """See `Params`."""
        scale, second = tables[0], tables[1] if len(tables) > 1 else None
        if self.trellis > 1 or self.logarithmic:
            base = tables[0] if self.logarithmic else None
            if base is not None:
                scale = steps_of_multipliers(base, torch.zeros(1, 1, dtype=torch.int8) if second is None else second)
            return Uniform(
                common.shape,
                common.dtype,
                mask,
                self.bits,
                codes,
                scale,
                None,
                self.group_size,
                trellis=self.trellis,
                base=base,
                multipliers=second,
            )
        zero, offset = second if self.affine else None, second if self.offset else None
        ends: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.granularity == _GROUP_ENDS:
            ends = scale, second
            scale, offset = steps_of_ends(scale, second, self.bits)
        common_and_mask = (common.shape, common.dtype, mask)
        return Uniform(
            *common_and_mask, self.bits, codes, scale, zero, self.group_size, offset, self.signed_zero, *ends
        )
