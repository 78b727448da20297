"""Arrays of any dtype to bytes and back, exact to the bit: floats by floats.py, the rest through byte planes.

A PLANES blob: a byte that names the `_Layout` (the words as they are, or a narrower float that all of them
fit), then for each plane, the most significant byte of the transformed words first, a tag and
    CONSTANT: the one byte that fills the plane;
    RAW:      the plane's bytes;
    other:    the length of the plane's blob (LEB128) and the blob, of the `Method` of that number.

Legend: N words, P bytes a word.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.floats import decode_floats, encode_floats
from tersor.coding.methods import SYMBOL_METHODS, CodingConfig, CorruptStreamError, Method
from tersor.coding.state import State
from tersor.coding.symbols import Blob, as_bytes, decode_in_slot, encode_in_slot
from tersor.coding.varint import read_varint, write_varint
from tersor.layers import Geometry

Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

KINDS = ("float", "signed", "unsigned", "bool")

_TRANSFORMS = {"unsigned": 0, "bool": 0, "float": 1, "signed": 2}
_CONSTANT = 7  # the tag of a plane, where a Method number stands otherwise
_FIRST_SLOT = 16  # of the adaptive models of planes
_TABLE_BYTES = 32  # what a coded plane takes beside its entropy, about
_LEAST_GAIN = 1024  # planes that would shrink by less than this part are stored raw: coding costs time
_ADAPTIVE_GAIN = 64  # planes that would shrink by less than this part are not worth the slow coder
_FEW = 4096  # planes of fewer bytes are always tried


class _Layout(IntEnum):
    """Which words the planes of a blob hold."""

    SAME = 0
    BFLOAT16 = 1
    """The upper halves of float32 words whose lower halves are zero."""
    FLOAT16 = 2
    """float32 words as float16."""


def encode_array(
    words: Words, kind: str, geometry: Geometry, config: CodingConfig, state: State
) -> tuple[Method, bytes]:
    """Codes the bit patterns `words` of an array.

    words: (N,), C-contiguous uint8, uint16, uint32 or uint64; for kind "bool" uint8 0 and 1.
    kind: what the bits mean: "float" (sign on top, exponent below it), "signed" (two's complement),
          "unsigned", "bool". It steers the model; any bits are kept exactly.

    Raises ValueError if the arguments contradict each other.
    """
    _check(words, kind, geometry)
    if kind == "float" and (floats := encode_floats(words, geometry, config)) is not None:
        return Method.FLOATS, floats
    if words.size > 0 and config.coder != "raw":
        planes = _encode_planes(words, kind, geometry, config, state)
        if planes is not None:
            return Method.PLANES, planes
    return Method.RAW, _encode_raw(words, kind)


def decode_array(method: Method, blob: Blob, out: Words, kind: str, geometry: Geometry, state: State) -> None:
    """Fills `out` (as `words` of `encode_array`) from exactly all bytes of `blob`.

    Raises CorruptStreamError if the blob is damaged.
    """
    _check(out, kind, geometry)
    if method == Method.RAW:
        _decode_raw(blob, out, kind)
    elif method == Method.FLOATS and kind == "float":
        decode_floats(blob, out, geometry)
    elif method == Method.PLANES and out.size > 0:
        _decode_planes(blob, out, kind, geometry, state)
    else:
        raise CorruptStreamError(f"{Method(method).name} is not a method for an array of {out.size} elements")


def _raw_size(words: Words, kind: str) -> int:
    return -(-words.size // 8) if kind == "bool" else words.nbytes


def _encode_raw(words: Words, kind: str) -> bytes:
    if kind == "bool":
        return core.encode_packed(words, 1) if words.size else b""
    return words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()


def _decode_raw(blob: Blob, out: Words, kind: str) -> None:
    expected = _raw_size(out, kind)
    if len(blob) != expected:
        raise CorruptStreamError(f"a raw array of {out.size} elements takes {expected} bytes, not {len(blob)}")
    if kind != "bool":
        out[:] = as_bytes(blob).view(out.dtype.newbyteorder("<"))
    elif out.size and not core.decode_packed(as_bytes(blob), out, 1):
        raise CorruptStreamError("a packed bool array has bits behind its end")


def _encode_planes(words: Words, kind: str, geometry: Geometry, config: CodingConfig, state: State) -> bytes | None:
    """The PLANES blob, or None (and the state as it was) if RAW is not larger."""
    raw_size = _raw_size(words, kind)
    layout, words = _narrowed(words) if kind == "float" else (_Layout.SAME, words)
    planes = np.empty((words.itemsize, words.size), np.uint8)
    core.split_planes(words, planes.reshape(-1), _TRANSFORMS[kind])
    trial = state.copy()
    blob = bytearray([layout])
    for slot, plane in enumerate(planes, _FIRST_SLOT):
        blob += _encode_plane(plane, 1 if kind == "bool" else 8, geometry, config, trial, slot)
    if len(blob) >= raw_size:
        return None
    state.become(trial)
    return bytes(blob)


def _encode_plane(
    plane: NDArray[np.uint8], bits: int, geometry: Geometry, config: CodingConfig, state: State, slot: int
) -> bytes:
    """Tag, length where it is not implied, and bytes of one plane."""
    fixed_entropy, used = core.measure_symbols(plane, bits)  # in 2^-16 bits
    if used == 1:
        return bytes([_CONSTANT, plane[0]])
    raw_size = -(-plane.size * bits // 8)
    method, blob = Method.RAW, b""
    gain = raw_size - _TABLE_BYTES - (fixed_entropy >> 19)
    if plane.size >= _FEW and config.coder == "auto" and gain < raw_size // _ADAPTIVE_GAIN:
        config = CodingConfig(profile="fast")
    if plane.size < _FEW or gain > raw_size // _LEAST_GAIN:
        method, blob = encode_in_slot(plane, geometry, bits, config, state, slot)
    if method == Method.RAW:
        return bytes([Method.RAW]) + (plane.tobytes() if bits == 8 else core.encode_packed(plane, bits))
    return bytes([method]) + write_varint(len(blob)) + blob


def _decode_planes(blob: Blob, out: Words, kind: str, geometry: Geometry, state: State) -> None:
    view = memoryview(blob)
    layout = view[0] if len(view) else -1
    narrow = layout in (_Layout.BFLOAT16, _Layout.FLOAT16)
    if layout != _Layout.SAME and not (narrow and kind == "float" and out.dtype == np.uint32):
        raise CorruptStreamError(f"unknown layout {layout} of byte planes")
    words = np.empty(out.size, np.uint16) if narrow else out
    planes = np.empty((words.itemsize, words.size), np.uint8)
    rest = view[1:]
    for slot, plane in enumerate(planes, _FIRST_SLOT):
        rest = _decode_plane(rest, plane, 1 if kind == "bool" else 8, geometry, state, slot)
    if len(rest) > 0:
        raise CorruptStreamError(f"{len(rest)} bytes behind the last byte plane")
    core.merge_planes(planes.reshape(-1), words, _TRANSFORMS[kind])
    if layout == _Layout.BFLOAT16:
        np.left_shift(words, 16, out=out, dtype=np.uint32)
    elif layout == _Layout.FLOAT16:
        out[:] = words.view(np.float16).astype(np.float32).view(np.uint32)


def _decode_plane(
    rest: memoryview, plane: NDArray[np.uint8], bits: int, geometry: Geometry, state: State, slot: int
) -> memoryview:
    """Fills `plane` from the head of `rest`; returns what is behind."""
    if len(rest) < 2:
        raise CorruptStreamError("byte planes end too early")
    tag, rest = rest[0], rest[1:]
    if tag == _CONSTANT:
        if rest[0] >> bits:
            raise CorruptStreamError("a byte plane is filled with a value out of range")
        plane[:] = rest[0]
        return rest[1:]
    if tag == Method.RAW:
        size = -(-plane.size * bits // 8)
    elif tag in SYMBOL_METHODS:
        size, rest = read_varint(rest)
    else:
        raise CorruptStreamError(f"unknown tag {tag} of a byte plane")
    if size > len(rest):
        raise CorruptStreamError(f"a byte plane of {size} bytes in the last {len(rest)}")
    decode_in_slot(Method(tag), rest[:size], plane, geometry, bits, state, slot)
    return rest[size:]


def _narrowed(words: Words) -> tuple[_Layout, Words]:
    """float32 words as bfloat16 or float16 if all of them fit exactly (no NaN for float16)."""
    if words.dtype != np.uint32:
        return _Layout.SAME, words
    singles = words.view(np.uint32)
    for layout, narrow in ((_Layout.BFLOAT16, _as_bfloat16), (_Layout.FLOAT16, _as_float16)):
        # A sample of the words first: most arrays fail there.
        if narrow(singles[:256]) is not None and (result := narrow(singles)) is not None:
            return layout, result
    return _Layout.SAME, words


def _as_bfloat16(words: NDArray[np.uint32]) -> NDArray[np.uint16] | None:
    return None if np.any(words & 0xFFFF) else (words >> 16).astype(np.uint16)


def _as_float16(words: NDArray[np.uint32]) -> NDArray[np.uint16] | None:
    if np.any(words & 0x1FFF):  # float16 has 13 mantissa bits fewer
        return None
    values = words.view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    if np.any(np.isnan(values)) or not np.array_equal(half.astype(np.float32).view(np.uint32), words):
        return None
    return half.view(np.uint16)


def _check(words: Words, kind: str, geometry: Geometry) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if words.dtype.kind != "u" or words.ndim != 1 or not words.flags.c_contiguous:
        raise ValueError(f"words must be a contiguous vector of unsigned integers, got {words.dtype} {words.shape}")
    if kind == "bool" and words.dtype != np.uint8:
        raise ValueError(f"bool arrays must come as uint8, got {words.dtype}")
    if words.size != geometry.elements:
        raise ValueError(f"{words.size} words do not fill the geometry {tuple(geometry)}")
