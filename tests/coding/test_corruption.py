"""Damaged blobs end in CorruptStreamError or in other values, never outside of the output."""

import numpy as np
import pytest

from tersor._native import core
from tersor.coding import (
    CodingConfig,
    CorruptStreamError,
    Method,
    State,
    decode_array,
    decode_mask,
    decode_symbols,
    encode_array,
    encode_mask,
)
from tests.coding.make import damaged, geometry_of, guarded, limits, symbols_of
from tests.coding.test_symbols import CODED, native_encode

ROUNDS = 120


def refused(decode, blob):
    try:
        decode(blob)
    except CorruptStreamError:
        return 1
    return 0


@pytest.mark.parametrize("coder", CODED)
@pytest.mark.parametrize(
    "dtype, bits, count",
    [(np.uint8, 8, 300), (np.int8, 3, 5000), (np.int16, 16, 700), (np.uint8, 5, 66000), (np.int16, 7, 66000)],
)
def test_damaged_symbols(coder, dtype, bits, count, every_isa):
    rng = np.random.default_rng(8)
    geometry = geometry_of(count)
    blob = native_encode(coder, symbols_of("normal", dtype, bits, count), geometry, bits)
    out, check = guarded(count, dtype)
    errors = 0
    rounds = ROUNDS if count < 10000 else 12
    for isa in every_isa:
        core.force_isa(isa)
        for _ in range(rounds):
            errors += refused(
                lambda data: decode_symbols(CODED[coder], data, out, geometry, bits, State()),
                damaged(blob, rng),
            )
            check()
    assert errors > 0


@pytest.mark.parametrize("coder", CODED)
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.int8, 2), (np.int16, 16), (np.int16, 11)])
def test_noise_as_symbols(coder, dtype, bits):
    rng = np.random.default_rng(9)
    low, high = limits(dtype, bits)
    for count in (1, 50, 5000):
        out, check = guarded(count, dtype)
        for size in range(0, 60):
            blob = rng.bytes(size)
            out[:] = low
            try:
                decode_symbols(CODED[coder], blob, out, geometry_of(count), bits, State())
            except CorruptStreamError:
                pass
            else:
                assert out.min() >= low and out.max() <= high
            check()


@pytest.mark.parametrize("coder", CODED)
def test_bytes_behind_the_end_and_lost_bytes_are_noticed(coder):
    for dtype, bits, count in (
        (np.uint8, 8, 1000),
        (np.int8, 4, 70000),
        (np.int16, 15, 1000),
        (np.int8, 2, 7),
    ):
        symbols = symbols_of("normal", dtype, bits, count)
        geometry = geometry_of(count)
        blob = native_encode(coder, symbols, geometry, bits)
        wrong = [blob + b"\0", blob + b"\1", blob + b"\0\0", blob + bytes(200)]
        if coder != "adaptive":  # where fewer bytes may be those of other symbols
            wrong += [blob[:-1], blob[:-2], b""]
        for data in wrong:
            if data != blob:
                with pytest.raises(CorruptStreamError):
                    decode_symbols(CODED[coder], data, symbols.copy(), geometry, bits, State())


def test_packed_symbols_take_exactly_their_bytes():
    out = np.zeros(3, np.int8)
    for wrong in (b"", b"\0", b"\0\0\0", b"\0\xf0"):
        with pytest.raises(CorruptStreamError):
            decode_symbols(Method.RAW, wrong, out, geometry_of(3), 4, State())
    decode_symbols(Method.RAW, b"\0\x0f", out, geometry_of(3), 4, State())
    assert out.tolist() == [-8, -8, 7]


@pytest.mark.parametrize("method", [Method.MASK_BITS, Method.MASK_RUNS, Method.RAW])
def test_damaged_masks(method):
    rng = np.random.default_rng(10)
    geometry = geometry_of(4000)
    mask = (rng.random(4000) < 0.03).astype(np.uint8)
    coder = {Method.MASK_BITS: "adaptive", Method.MASK_RUNS: "rans", Method.RAW: "raw"}[method]
    _, blob = encode_mask(mask, geometry, CodingConfig(coder), State())
    if method == Method.MASK_BITS:
        blob = core.encode_mask(mask, geometry.row_length, geometry.kernel, State().native)
    out, check = guarded(mask.size, np.uint8)
    errors = 0
    for i in range(3 * ROUNDS):
        data = damaged(blob, rng) if i % 4 else rng.bytes(int(rng.integers(0, 50)))
        out[:] = 0
        errors += refused(lambda data: decode_mask(method, data, out, geometry, State()), data)
        check()
        assert out.max() <= 1
    assert errors > 0


@pytest.mark.parametrize(
    "dtype, kind", [(np.uint32, "float"), (np.uint16, "float"), (np.uint64, "signed"), (np.uint8, "bool")]
)
@pytest.mark.parametrize("profile", ["small", "fast"])
def test_damaged_arrays(dtype, kind, profile):
    rng = np.random.default_rng(11)
    geometry = geometry_of(900)
    if kind == "bool":
        words = (rng.random(900) < 0.1).astype(np.uint8)
    else:
        words = np.round(rng.normal(0, 60, 900)).astype(np.int64).view(np.uint64).astype(dtype)
    method, blob = encode_array(words, kind, geometry, CodingConfig(profile=profile), State())
    assert method == Method.PLANES
    out, check = guarded(words.size, dtype)
    errors = 0
    for i in range(ROUNDS):
        data = damaged(blob, rng) if i % 4 else bytes([i % 3]) + rng.bytes(int(rng.integers(0, 80)))
        errors += refused(lambda data: decode_array(method, data, out, kind, geometry, State()), data)
        check()
    assert errors > 0
