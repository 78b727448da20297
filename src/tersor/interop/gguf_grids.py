"""GGUF block types that are affine grids: their codes, scales and offsets as they are, without dequantizing.

A block is 32 weights of a row: float16 scale, float16 offset (types "_1"), 4 bytes with the fifth bit of each code
(5 bits), then the codes, 8 bits each, or 4 with the first 16 weights in the low halves of 16 bytes.

Legend: B blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 32


class GridBlocks(NamedTuple):
    """A block type. bits: of a code. offset: codes count from the bottom of the range, which each block gives."""

    bits: int
    offset: bool


GRID_BLOCKS = {
    "Q4_0": GridBlocks(4, False),
    "Q4_1": GridBlocks(4, True),
    "Q5_0": GridBlocks(5, False),
    "Q5_1": GridBlocks(5, True),
    "Q8_0": GridBlocks(8, False),
}


def unpack_blocks(
    blocks: NDArray[np.uint8],
    kind: GridBlocks,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32] | None,
) -> None:
    """Takes `blocks` (B, bytes of a block) apart.

    codes: filled, (B, 32), in [-2^(bits-1), 2^(bits-1) - 1].
    scale, offset: filled, (B,); offset is None where the blocks have none.
    """
    scale[:] = _halves(blocks[:, :2])
    at = 2
    if offset is not None:
        offset[:] = _halves(blocks[:, 2:4])
        at = 4
    if kind.bits == 8:
        codes[:] = blocks[:, at:].view(np.int8)
        return
    high = 0 if kind.bits == 4 else 4
    packed = blocks[:, at + high :]
    unsigned = codes.view(np.uint8)
    np.bitwise_and(packed, 15, out=unsigned[:, : BLOCK // 2])
    np.right_shift(packed, 4, out=unsigned[:, BLOCK // 2 :])
    if high:
        unsigned |= np.unpackbits(blocks[:, at : at + high], axis=1, bitorder="little") << 4
    codes -= 1 << kind.bits - 1


def _halves(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The little-endian float16 numbers in `octets` (B, 2)."""
    return np.ascontiguousarray(octets).view("<f2")[:, 0].astype(np.float32)
