"""How uniform grids are stored: by their steps, or by the extremes that the steps follow from.

Legend: O output channels (rows), N weights a row, G groups a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.container.dtypes import WireType, wire_type
from tersor.container.params import MAX_ELEMENTS, Common, Params, Table
from tersor.container.wire import ByteReader, ByteWriter
from tersor.ends import steps_of_ends
from tersor.errors import CorruptFileError
from tersor.layers import matrix_shape
from tersor.tensors import Uniform

_TENSOR, _ROW, _GROUP, _GROUP_ENDS = 0x00, 0x20, 0x40, 0x60
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
        granularity = granularity if tensor.high is None else _GROUP_ENDS
        affine, offset = tensor.zero is not None, tensor.offset is not None
        return cls(tensor.bits, affine, offset, tensor.group_size, granularity, tensor.signed_zero)

    def write(self, out: ByteWriter) -> None:
        """See `Params`."""
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
        if granularity == _GROUP_ENDS and start not in (0, _OFFSET):
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

    def code_words(self) -> WireType:
        """See `Params`."""
        return wire_type(torch.int8 if self.bits <= 8 else torch.int16, "codes")

    def codes(self, tensor: Uniform) -> Tensor:
        """See `Params`."""
        return tensor.codes

    def build(self, common: Common, mask: Tensor | None, tables: list[Tensor], codes: Tensor) -> Uniform:
        """See `Params`."""
        scale, second = tables[0], tables[1] if len(tables) > 1 else None
        zero, offset = second if self.affine else None, second if self.offset else None
        ends: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.granularity == _GROUP_ENDS:
            ends = scale, second
            scale, offset = steps_of_ends(scale, second, self.bits)
        common_and_mask = (common.shape, common.dtype, mask)
        return Uniform(
            *common_and_mask, self.bits, codes, scale, zero, self.group_size, offset, self.signed_zero, *ends
        )
