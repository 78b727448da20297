"""Small integers of known width to bytes and back.

Legend: N symbols, in the order of a weight of `geometry` (rows x columns x kernel).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.methods import CodingConfig, CorruptStreamError, Method
from tersor.coding.state import State
from tersor.layers import Geometry

Symbols = NDArray[np.uint8] | NDArray[np.int8] | NDArray[np.int16]
Blob = bytes | bytearray | memoryview

_DTYPES = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int16))


def encode_symbols(
    symbols: Symbols, geometry: Geometry, bits: int, config: CodingConfig, state: State
) -> tuple[Method, bytes]:
    """Codes `symbols` into a blob; the smallest of what `config` lets it try.

    symbols: (N,), C-contiguous uint8 with values in [0, 2^bits), or int8 or int16 with values in
             [-2^(bits-1), 2^(bits-1)).
    geometry: N = geometry.elements; neighbours in it are contexts of the adaptive coder.
    bits: 1..8 for 8-bit symbols, 1..16 for int16.
    state: updated if the result is adaptive, else left as it is.

    Raises ValueError if the arguments contradict each other.
    """
    return encode_in_slot(symbols, geometry, bits, config, state, bits)


def encode_in_slot(
    symbols: Symbols, geometry: Geometry, bits: int, config: CodingConfig, state: State, slot: int
) -> tuple[Method, bytes]:
    """`encode_symbols` with the adaptive model of `slot` (0..31) for unsigned symbols.

    Slots 0..8 belong to symbols of that many bits; other streams use their own, so that models do not mix.
    """
    _check(symbols, geometry, bits)
    if symbols.size == 0:
        return Method.RAW, b""
    raw_size = -(-symbols.size * bits // 8)
    method, best = _encode_static(symbols, bits, config)
    smallest = raw_size if method == Method.RAW else len(best)
    if config.tries_adaptive:
        trial = state.copy()
        blob = core.encode_adaptive(symbols, bits, geometry.row_length, geometry.kernel, slot, trial.native)
        if len(blob) < smallest:
            state.become(trial)
            return Method.ADAPTIVE, blob
    return method, core.encode_packed(symbols, bits) if method == Method.RAW else best


def _encode_static(symbols: Symbols, bits: int, config: CodingConfig) -> tuple[Method, bytes]:
    """The method and the blob of the static coder that `config` asks for; RAW, not packed, if that gains nothing."""
    if config.coder == "auto":
        number, blob = core.encode_static(symbols, bits, config.profile == "fast")
        return Method(number), blob
    method = Method.__members__[config.coder.upper()]
    if method == Method.RANS:
        blob = core.encode_rans(symbols, bits)
    elif method == Method.HUFFMAN:
        blob = core.encode_huffman(symbols, bits)
    elif method == Method.REGISTER and symbols.itemsize == 1:
        blob = core.encode_register(symbols, bits)
    else:
        return Method.RAW, b""
    return (method, blob) if len(blob) < -(-symbols.size * bits // 8) else (Method.RAW, b"")


def decode_symbols(method: Method, blob: Blob, out: Symbols, geometry: Geometry, bits: int, state: State) -> None:
    """Fills `out` (as `symbols` of `encode_symbols`) from exactly all bytes of `blob`.

    Raises CorruptStreamError if the blob is not one that the method's encoder could have written for these
    arguments, as far as that can be seen.
    """
    decode_in_slot(method, blob, out, geometry, bits, state, bits)


def decode_in_slot(
    method: Method, blob: Blob, out: Symbols, geometry: Geometry, bits: int, state: State, slot: int
) -> None:
    """`decode_symbols` for a blob of `encode_in_slot` with the same `slot`."""
    _check(out, geometry, bits)
    if out.size == 0:
        if method != Method.RAW or len(blob) > 0:
            raise CorruptStreamError("a stream of no symbols must be stored raw, in no bytes")
        return
    data = as_bytes(blob)
    if method == Method.RAW:
        good = core.decode_packed(data, out, bits)
    elif method == Method.RANS:
        good = core.decode_rans(data, out, bits)
    elif method == Method.HUFFMAN:
        good = core.decode_huffman(data, out, bits)
    elif method == Method.REGISTER:
        good = core.decode_register(data, out, bits)
    elif method == Method.ADAPTIVE:
        good = core.decode_adaptive(data, out, bits, geometry.row_length, geometry.kernel, slot, state.native)
    else:
        raise CorruptStreamError(f"{Method(method).name} is not a method for symbols")
    if not good:
        raise CorruptStreamError(
            f"damaged {Method(method).name} stream: {len(blob)} bytes do not decode to {out.size} symbols "
            f"of {bits} bits"
        )


def entropy(symbols: Symbols) -> float:
    """Order-0 entropy of `symbols` (N,), in bits a symbol; 0 for none."""
    if symbols.size == 0:
        return 0.0
    fixed, _ = core.measure_symbols(np.ascontiguousarray(symbols), 8 * symbols.itemsize)
    return fixed / 65536 / symbols.size


def as_bytes(blob: Blob) -> NDArray[np.uint8]:
    """A view of `blob` that the native core takes."""
    return np.frombuffer(blob, np.uint8) if len(blob) else np.empty(0, np.uint8)


def _check(symbols: Symbols, geometry: Geometry, bits: int) -> None:
    if symbols.dtype not in _DTYPES or symbols.ndim != 1 or not symbols.flags.c_contiguous:
        raise ValueError(
            f"symbols must be a contiguous vector of uint8, int8 or int16, got {symbols.dtype} {symbols.shape}"
        )
    if symbols.size != geometry.elements:
        raise ValueError(f"{symbols.size} symbols do not fill the geometry {tuple(geometry)}")
    if not 1 <= bits <= 8 * symbols.itemsize:
        raise ValueError(f"bits must be 1..{8 * symbols.itemsize} for {symbols.dtype}, got {bits}")
