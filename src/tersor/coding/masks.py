"""Which positions are kept: masks to bytes and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.methods import SYMBOL_METHODS, CodingConfig, CorruptStreamError, Method
from tersor.coding.state import State
from tersor.coding.symbols import Blob, as_bytes, decode_in_slot, encode_in_slot
from tersor.coding.varint import read_varint, write_varint
from tersor.layers import Geometry

_ESCAPE = 255
_GAP_SLOT = 9

Mask = NDArray[np.uint8] | NDArray[np.bool_]


def encode_mask(mask: Mask, geometry: Geometry, config: CodingConfig, state: State) -> tuple[Method, bytes]:
    """Codes `mask`, (geometry.elements,) of bool or of uint8 0 and 1, C-contiguous; the smallest candidate wins.

    Raises ValueError if the mask holds anything else, or does not fill the geometry.
    """
    bits = _as_bits(mask, geometry)
    if bits.size == 0:
        return Method.RAW, b""
    best = Method.RAW, core.encode_packed(bits, 1)
    if config.coder == "raw":
        return best
    runs_state = state.copy()
    runs = _encode_runs(bits, config, runs_state)
    if len(runs) < len(best[1]):
        best = Method.MASK_RUNS, runs
    if config.tries_adaptive:
        bits_state = state.copy()
        coded = core.encode_mask(bits, geometry.row_length, geometry.kernel, bits_state.native)
        if len(coded) < len(best[1]):
            best = Method.MASK_BITS, coded
            state.become(bits_state)
    if best[0] == Method.MASK_RUNS:
        state.become(runs_state)
    return best


def decode_mask(method: Method, blob: Blob, out: Mask, geometry: Geometry, state: State) -> None:
    """Fills `out` (as `mask` of `encode_mask`) from exactly all bytes of `blob`.

    Raises CorruptStreamError if the blob is damaged.
    """
    bits = _as_bits(out, geometry)
    if bits.size == 0:
        good = method == Method.RAW and len(blob) == 0
    elif method == Method.RAW:
        good = core.decode_packed(as_bytes(blob), bits, 1)
    elif method == Method.MASK_BITS:
        good = core.decode_mask(as_bytes(blob), bits, geometry.row_length, geometry.kernel, state.native)
    elif method == Method.MASK_RUNS:
        good = _decode_runs(memoryview(blob), bits, state)
    else:
        raise CorruptStreamError(f"{Method(method).name} is not a method for masks")
    if not good:
        raise CorruptStreamError(
            f"damaged {Method(method).name} mask: {len(blob)} bytes do not decode to {bits.size} bits"
        )


def _encode_runs(bits: NDArray[np.uint8], config: CodingConfig, state: State) -> bytes:
    """Gaps before the rarer value. Blob: method + 16 * that value, number of gap symbols, their blob."""
    ones = int(np.count_nonzero(bits))
    rarer = 1 if 2 * ones <= bits.size else 0
    positions = np.flatnonzero(bits == rarer)
    gaps = np.diff(positions, prepend=-1) - 1
    symbols = _split_gaps(gaps)
    geometry = Geometry(1, symbols.size)
    method, blob = encode_in_slot(symbols, geometry, 8, config, state, _GAP_SLOT)
    return bytes([method | rarer << 4]) + write_varint(symbols.size) + blob


def _split_gaps(gaps: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each gap as so many times _ESCAPE as it holds, then the rest."""
    escapes = gaps // _ESCAPE
    symbols = np.full(gaps.size + int(escapes.sum()), _ESCAPE, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    return symbols


def _decode_runs(blob: memoryview, bits: NDArray[np.uint8], state: State) -> bool:
    """The inverse of `_encode_runs`; False, or CorruptStreamError from within, if the blob is damaged."""
    if len(blob) < 2 or blob[0] >> 5 or blob[0] & 15 not in SYMBOL_METHODS:
        return False
    rarer = blob[0] >> 4
    count, rest = read_varint(blob[1:])
    if count > bits.size:  # every symbol stands for a position at least
        return False
    symbols = np.empty(count, np.uint8)
    decode_in_slot(Method(blob[0] & 15), rest, symbols, Geometry(1, count), 8, state, _GAP_SLOT)
    if count and symbols[-1] == _ESCAPE:
        return False
    # An escape goes on by its gap, every other symbol by its gap and the position that ends it.
    steps = symbols.astype(np.int64) + (symbols != _ESCAPE)
    ends = np.cumsum(steps)
    if count and ends[-1] > bits.size:
        return False
    bits[:] = 1 - rarer
    bits[ends[symbols != _ESCAPE] - 1] = rarer
    return True


def _as_bits(mask: Mask, geometry: Geometry) -> NDArray[np.uint8]:
    if mask.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_)) or mask.ndim != 1 or not mask.flags.c_contiguous:
        raise ValueError(f"a mask must be a contiguous vector of bool or uint8, got {mask.dtype} {mask.shape}")
    if mask.size != geometry.elements:
        raise ValueError(f"a mask of {mask.size} bits does not fill the geometry {tuple(geometry)}")
    return mask.view(np.uint8)
