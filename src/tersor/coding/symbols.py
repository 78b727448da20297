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

_LEAST_BYTES = 512
"""Streams that other static coders make smaller than this cannot pay for tables by scale."""

_LEAST_GAIN = 200
"""Tables by scale must save this part of the smallest other static stream: they decode more slowly."""

_NUMBERS = 10  # slot of the adaptive models of small numbers

Kept = NDArray[np.uint8] | NDArray[np.bool_]

_DECODERS = {
    Method.RAW: core.decode_packed,
    Method.RANS: core.decode_rans,
    Method.HUFFMAN: core.decode_huffman,
    Method.REGISTER: core.decode_register,
}
_DTYPES = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int16))


def encode_symbols(
    symbols: Symbols,
    geometry: Geometry,
    bits: int,
    config: CodingConfig,
    state: State,
    kept: Kept | None = None,
    states: int = 1,
) -> tuple[Method, bytes]:
    """Codes `symbols` into a blob; the smallest of what `config` lets it try.

    symbols: (N,), C-contiguous uint8 with values in [0, 2^bits), or int8 or int16 with values in
             [-2^(bits-1), 2^(bits-1)).
    geometry: N = geometry.elements; neighbours in it are contexts of the adaptive coder.
    bits: 1..8 for 8-bit symbols, 1..16 for int16.
    state: updated if the result is adaptive, else left as it is.
    kept: (N,) of bool or of uint8 0 and 1, C-contiguous: which symbols are coded at all; None for all.
    states: of the trellis whose indices the symbols are (see `trellis.to_indices`), signed then; 1 for none.

    Raises ValueError if the arguments contradict each other.
    """
    return encode_in_slot(symbols, geometry, bits, config, state, bits, kept, states)


def encode_in_slot(
    symbols: Symbols,
    geometry: Geometry,
    bits: int,
    config: CodingConfig,
    state: State,
    slot: int,
    kept: Kept | None = None,
    states: int = 1,
) -> tuple[Method, bytes]:
    """`encode_symbols` with the adaptive model of `slot` (0..31) for unsigned symbols.

    Slots 0..8 belong to symbols of that many bits; other streams use their own, so that models do not mix.
    """
    _check(symbols, geometry, bits, kept, states)
    coded = symbols if kept is None else symbols[kept.view(np.bool_)]
    if coded.size == 0:
        return Method.RAW, b""
    method, best = _encode_static(coded, _place(geometry, kept, coded.size), bits, config)
    smallest = -(-coded.size * bits // 8) if method == Method.RAW else len(best)
    if config.tries_adaptive:
        trial = state.copy()
        blob = core.encode_adaptive(
            symbols, bits, geometry.row_length, geometry.kernel, slot, trial.native, _as_mask(kept), states
        )
        if len(blob) < smallest:
            state.become(trial)
            return Method.ADAPTIVE, blob
    return method, core.encode_packed(coded, bits) if method == Method.RAW else best


def _encode_static(symbols: Symbols, geometry: Geometry, bits: int, config: CodingConfig) -> tuple[Method, bytes]:
    """The method and the blob of the static coder that `config` asks for; RAW, not packed, if that gains nothing."""
    if config.coder == "auto":
        number, blob = core.encode_static(symbols, bits, config.profile == "fast")
        smallest = len(blob) if number else -(-symbols.size * bits // 8)
        if smallest >= _LEAST_BYTES:
            buckets = core.encode_buckets(symbols, bits, *geometry, smallest - smallest // _LEAST_GAIN)
            if buckets:
                return Method.BUCKETS, buckets
        return Method(number), blob
    method = Method.__members__[config.coder.upper()]
    if method == Method.RANS:
        blob = core.encode_rans(symbols, bits)
    elif method == Method.HUFFMAN:
        blob = core.encode_huffman(symbols, bits)
    elif method == Method.BUCKETS:
        blob = core.encode_buckets(symbols, bits, *geometry, 1 << 62)
    elif method == Method.REGISTER and symbols.itemsize == 1:
        blob = core.encode_register(symbols, bits)
    else:
        return Method.RAW, b""
    return (method, blob) if 0 < len(blob) < -(-symbols.size * bits // 8) else (Method.RAW, b"")


def decode_symbols(
    method: Method,
    blob: Blob,
    out: Symbols,
    geometry: Geometry,
    bits: int,
    state: State,
    kept: Kept | None = None,
    states: int = 1,
) -> None:
    """Fills `out` (as `symbols` of `encode_symbols`) where it is kept from exactly all bytes of `blob`.

    Raises CorruptStreamError if the blob is not one that the method's encoder could have written for these
    arguments, as far as that can be seen.
    """
    decode_in_slot(method, blob, out, geometry, bits, state, bits, kept, states)


def decode_in_slot(
    method: Method,
    blob: Blob,
    out: Symbols,
    geometry: Geometry,
    bits: int,
    state: State,
    slot: int,
    kept: Kept | None = None,
    states: int = 1,
) -> None:
    """`decode_symbols` for a blob of `encode_in_slot` with the same `slot`."""
    _check(out, geometry, bits, kept, states)
    count = out.size if kept is None else int(np.count_nonzero(kept))
    if count == 0:
        if method != Method.RAW or len(blob) > 0:
            raise CorruptStreamError("a stream of no symbols must be stored raw, in no bytes")
        return
    data = as_bytes(blob)
    if method == Method.ADAPTIVE:
        shape = geometry.row_length, geometry.kernel
        good = core.decode_adaptive(data, out, bits, *shape, slot, state.native, _as_mask(kept), states)
    elif method in (*_DECODERS, Method.BUCKETS):
        coded = out if kept is None else np.empty(count, out.dtype)
        if method == Method.BUCKETS:
            good = core.decode_buckets(data, coded, bits, *_place(geometry, kept, count))
        else:
            good = _DECODERS[method](data, coded, bits)
        if kept is not None:
            out[kept.view(np.bool_)] = coded
    else:
        raise CorruptStreamError(f"{Method(method).name} is not a method for symbols")
    if not good:
        raise CorruptStreamError(
            f"damaged {Method(method).name} stream: {len(blob)} bytes do not decode to {count} symbols of {bits} bits"
        )


def encode_small_numbers(numbers: NDArray[np.int8], config: CodingConfig, state: State) -> tuple[Method, bytes]:
    """Codes a vector of small signed numbers that belong to no weight: (N,) contiguous int8, mostly near 0."""
    return encode_in_slot(numbers.view(np.uint8) ^ 0x80, Geometry(1, numbers.size), 8, config, state, _NUMBERS)


def decode_small_numbers(method: Method, blob: Blob, out: NDArray[np.int8], state: State) -> None:
    """Fills `out` from a blob of `encode_small_numbers`. CorruptStreamError if it is damaged."""
    words = out.view(np.uint8)
    decode_in_slot(method, blob, words, Geometry(1, out.size), 8, state, _NUMBERS)
    words ^= 0x80


def entropy(symbols: Symbols) -> float:
    """Order-0 entropy of `symbols` (N,), in bits a symbol; 0 for none."""
    if symbols.size == 0:
        return 0.0
    fixed, _ = core.measure_symbols(np.ascontiguousarray(symbols), 8 * symbols.itemsize)
    return fixed / 65536 / symbols.size


def as_bytes(blob: Blob) -> NDArray[np.uint8]:
    """A view of `blob` that the native core takes."""
    return np.frombuffer(blob, np.uint8) if len(blob) else np.empty(0, np.uint8)


def _place(geometry: Geometry, kept: Kept | None, count: int) -> Geometry:
    """Where static coders think the symbols lie: those that a mask keeps are a vector to them."""
    return geometry if kept is None else Geometry(1, count)


def _as_mask(kept: Kept | None) -> NDArray[np.uint8] | None:
    return None if kept is None else kept.view(np.uint8)


def _check(symbols: Symbols, geometry: Geometry, bits: int, kept: Kept | None, states: int) -> None:
    if symbols.dtype not in _DTYPES or symbols.ndim != 1 or not symbols.flags.c_contiguous:
        raise ValueError(
            f"symbols must be a contiguous vector of uint8, int8 or int16, got {symbols.dtype} {symbols.shape}"
        )
    if symbols.size != geometry.elements:
        raise ValueError(f"{symbols.size} symbols do not fill the geometry {tuple(geometry)}")
    if not 1 <= bits <= 8 * symbols.itemsize:
        raise ValueError(f"bits must be 1..{8 * symbols.itemsize} for {symbols.dtype}, got {bits}")
    if states > 1 and symbols.dtype.kind != "i":
        raise ValueError(f"indices of a trellis are signed, got {symbols.dtype}")
    if kept is not None and (
        kept.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_))
        or kept.shape != symbols.shape
        or not kept.flags.c_contiguous
    ):
        raise ValueError(f"kept must be {symbols.size} contiguous bools or uint8, got {kept.dtype} {kept.shape}")
