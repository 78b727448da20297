"""The only geometry: how a weight of any rank is seen as a matrix.

Legend: O outputs, I inputs, K kernel positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Geometry(NamedTuple):
    """A weight as rows x columns x kernel, C-contiguous.

    A Linear weight (O, I) is (O, I, 1); a convolution (O, I, kh, kw) is (O, I, kh*kw); a vector (N,) is
    (1, N, 1); a scalar is (1, 1, 1). An empty tensor has a zero somewhere.
    """

    rows: int
    columns: int
    kernel: int = 1

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.rows * self.columns * self.kernel

    @property
    def row_length(self) -> int:
        """Elements of one row: columns x kernel."""
        return self.columns * self.kernel


def geometry(shape: Sequence[int]) -> Geometry:
    """Geometry of a weight of `shape` (any rank >= 0, dimensions >= 0)."""
    dims = tuple(int(d) for d in shape)
    if len(dims) == 0:
        return Geometry(1, 1, 1)
    if len(dims) == 1:
        return Geometry(1, dims[0], 1)
    kernel = 1
    for d in dims[2:]:
        kernel *= d
    return Geometry(dims[0], dims[1], kernel)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(O, N): one row an output channel, N = I*K weights each. Vectors are one row."""
    g = geometry(shape)
    return g.rows, g.row_length
