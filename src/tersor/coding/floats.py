"""Arrays of floats to bytes and back, exact to the bit: exponents coded, the rest of the mantissas as it is.

The format is that of csrc/coding/float_codec.hpp. Exponents of the fast profile decode through tables in registers,
straight into the caller's array; those of the small one take the top two bits of the mantissa along, and a table that
suits the scale of their row and column. Rows that are narrower than their dtype (float16 values in a float32 array)
are flagged: their low bits cost nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.methods import CodingConfig, CorruptStreamError
from tersor.coding.symbols import Blob, as_bytes
from tersor.layers import Geometry

Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

_LEAST = 4096
"""Words of the smallest array that is worth the tables."""


def encode_floats(words: Words, geometry: Geometry, config: CodingConfig) -> bytes | None:
    """The blob of the bit patterns `words`, (N,) C-contiguous; None where byte planes or raw words suit better:
    few words, or of one byte, many zeros, no pattern."""
    if config.coder != "auto" or words.itemsize == 1 or words.size < _LEAST:
        return None
    return core.encode_floats(words, *geometry, config.profile == "small") or None


def decode_floats(blob: Blob, out: Words, geometry: Geometry) -> None:
    """Fills `out` (as `words` of `encode_floats`) from exactly all bytes of `blob`.

    Raises CorruptStreamError if the blob is damaged.
    """
    if out.itemsize == 1 or out.size == 0 or not core.decode_floats(as_bytes(blob), out, *geometry):
        raise CorruptStreamError(f"damaged FLOATS array: {len(blob)} bytes do not decode to {out.size} words")
