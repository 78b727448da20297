"""Which positions are kept: masks to bytes and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.methods import CodingConfig, CorruptStreamError, Method
from tersor.coding.state import State
from tersor.coding.symbols import Blob, as_bytes
from tersor.layers import Geometry

Mask = NDArray[np.uint8] | NDArray[np.bool_]


def encode_mask(mask: Mask, geometry: Geometry, config: CodingConfig, state: State) -> tuple[Method, bytes]:
    """Codes `mask`, (geometry.count,) of bool or of uint8 0 and 1, C-contiguous; the smallest candidate."""
    bits = _as_bits(mask, geometry)
    if bits.size == 0:
        return Method.RAW, b""
    return Method.RAW, core.encode_packed(bits, 1)


def decode_mask(method: Method, blob: Blob, out: Mask, geometry: Geometry, state: State) -> None:
    """Fills `out` (as `mask` of `encode_mask`) from exactly all bytes of `blob`; raises CorruptStreamError."""
    bits = _as_bits(out, geometry)
    if bits.size == 0:
        if method != Method.RAW or len(blob) > 0:
            raise CorruptStreamError("an empty mask must be stored raw, in no bytes")
        return
    if method != Method.RAW:
        raise CorruptStreamError(f"{Method(method).name} is not a method for masks")
    if not core.decode_packed(as_bytes(blob), bits, 1):
        raise CorruptStreamError(f"damaged mask: {len(blob)} bytes do not hold {bits.size} bits")


def _as_bits(mask: Mask, geometry: Geometry) -> NDArray[np.uint8]:
    if (
        mask.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_))
        or mask.ndim != 1
        or not mask.flags.c_contiguous
    ):
        raise ValueError(
            f"a mask must be a contiguous vector of bool or uint8, got {mask.dtype} {mask.shape}"
        )
    if mask.size != geometry.count:
        raise ValueError(f"a mask of {mask.size} bits does not fill the geometry {tuple(geometry)}")
    return mask.view(np.uint8)
