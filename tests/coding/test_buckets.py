"""Tables by scale: Method.BUCKETS."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.coding import CodingConfig, CorruptStreamError, Method, State, decode_symbols, encode_symbols
from tersor.layers import Geometry
from tests.coding.make import SHAPES, WIDTHS, damaged, guarded, limits, symbols_of
from tests.twins import buckets as twin

ANY = 1 << 62


def scaled(geometry, spread, dtype=np.int8, bits=8, sigma=1.0, seed=0):
    """Symbols whose rows, channels and kernel positions differ in scale."""
    rng = np.random.default_rng(seed)
    scale = sigma
    for axis, n in enumerate(geometry):
        shape = [1, 1, 1]
        shape[axis] = n
        scale = scale * np.exp(rng.normal(0, spread, shape))
    low, high = limits(dtype, bits)
    middle = 0 if low < 0 else (low + high) // 2
    values = np.round(middle + scale * rng.normal(0, 1, tuple(geometry)))
    return np.clip(values, low, high).astype(dtype).reshape(-1)


def decoded(blob, like, bits, geometry):
    out = np.full_like(like, 1)
    assert core.decode_buckets(np.frombuffer(blob, np.uint8), out, bits, *geometry)
    return out


@pytest.mark.parametrize("geometry", [Geometry(2, 1), Geometry(3, 5, 9), Geometry(40, 50, 3), Geometry(300, 221)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_every_width_comes_back_from_every_instruction_set(geometry, shape, dtype, every_isa):
    for bits in WIDTHS[dtype]:
        if geometry.elements > 10_000 and bits not in (2, 5, 8, 12):
            continue
        symbols = symbols_of(shape, dtype, bits, geometry.elements)
        blobs = set()
        for isa in every_isa:
            core.force_isa(isa)
            blob = core.encode_buckets(symbols, bits, *geometry, ANY)
            if int(symbols.max()) - int(symbols.min()) > 255:
                assert blob == b""
                continue
            blobs.add(blob)
            np.testing.assert_array_equal(decoded(blob, symbols, bits, geometry), symbols)
        assert len(blobs) <= 1


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_matrix_comes_back(data):
    geometry = Geometry(*(data.draw(st.integers(low, 9)) for low in (2, 1, 1)))
    symbols = np.array(
        data.draw(st.lists(st.integers(-128, 127), min_size=geometry.elements, max_size=geometry.elements))
    )
    symbols = symbols.astype(np.int8)
    blob = core.encode_buckets(symbols, 8, *geometry, ANY)
    np.testing.assert_array_equal(decoded(blob, symbols, 8, geometry), symbols)


@pytest.mark.parametrize(
    "geometry, dtype, bits",
    [
        (Geometry(2, 3), np.uint8, 3),
        (Geometry(20, 30), np.int8, 8),
        (Geometry(16, 8, 9), np.int8, 4),
        (Geometry(70, 80), np.int16, 11),
        (Geometry(260, 260), np.int8, 6),
    ],
)
def test_the_bytes_are_those_of_the_twin(geometry, dtype, bits):
    symbols = scaled(geometry, 0.8, dtype, bits, 2.0)
    blob = core.encode_buckets(symbols, bits, *geometry, ANY)
    indices = (symbols.astype(int) - limits(dtype, bits)[0]).tolist()
    assert twin.decode(blob, geometry) == indices
    model, _ = twin.read_model(blob, geometry)
    assert twin.encode(indices, model) == blob


def test_scales_of_rows_columns_and_positions_are_seen():
    for geometry in (Geometry(128, 128), Geometry(64, 32, 9)):
        symbols = scaled(geometry, 0.7)
        method, blob = encode_symbols(symbols, geometry, 8, CodingConfig(profile="fast"), State())
        assert method == Method.BUCKETS
        assert len(blob) < 0.9 * len(core.encode_rans(symbols, 8))


def test_even_matrices_get_other_coders():
    geometry = Geometry(128, 128)
    symbols = scaled(geometry, 0.0)
    method, _ = encode_symbols(symbols, geometry, 8, CodingConfig(profile="fast"), State())
    assert method != Method.BUCKETS


def test_rows_without_weights_cost_little():
    geometry = Geometry(256, 256)
    symbols = scaled(geometry, 0.1, sigma=3.0)
    symbols.reshape(256, 256)[::2] = 0
    full = len(core.encode_buckets(scaled(Geometry(128, 256), 0.1, sigma=3.0), 8, 128, 256, 1, ANY))
    assert len(core.encode_buckets(symbols, 8, *geometry, ANY)) < 1.05 * full


def test_nothing_is_coded_beyond_the_limit_or_for_a_single_row():
    symbols = scaled(Geometry(60, 60), 0.5)
    assert core.encode_buckets(symbols, 8, 60, 60, 1, 100) == b""
    assert core.encode_buckets(symbols, 8, 1, 3600, 1, ANY) == b""


def test_a_geometry_that_does_not_fit_is_refused():
    with pytest.raises(ValueError):
        core.encode_buckets(np.zeros(6, np.int8), 8, 2, 2, 1, ANY)
    with pytest.raises(ValueError):
        core.decode_buckets(np.zeros(6, np.uint8), np.zeros(6, np.int8), 8, 3, 0, 1)


@pytest.mark.parametrize("geometry", [Geometry(10, 30), Geometry(40, 25, 9), Geometry(300, 230)])
@pytest.mark.parametrize("dtype, bits", [(np.int8, 8), (np.uint8, 4), (np.int16, 12)])
def test_damage_is_refused_or_stays_in_range(geometry, dtype, bits, every_isa):
    rng = np.random.default_rng(3)
    blob = core.encode_buckets(scaled(geometry, 0.6, dtype, bits, 1.5), bits, *geometry, ANY)
    out, check = guarded(geometry.elements, dtype)
    low, high = limits(dtype, bits)
    errors = 0
    for isa in every_isa:
        core.force_isa(isa)
        for i in range(120 if geometry.elements < 10_000 else 30):
            data = damaged(blob, rng)
            if i % 3 == 0:  # the model itself
                data = bytearray(blob)
                data[rng.integers(60)] ^= 1 << int(rng.integers(8))
            out[:] = low
            try:
                decode_symbols(Method.BUCKETS, bytes(data), out, geometry, bits, State())
            except CorruptStreamError:
                errors += 1
            else:
                assert out.min() >= low and out.max() <= high
            check()
    assert errors > 0


def test_bytes_behind_the_end_and_lost_bytes_are_noticed():
    for geometry in (Geometry(20, 30), Geometry(90, 90), Geometry(300, 230)):
        symbols = scaled(geometry, 0.5)
        blob = core.encode_buckets(symbols, 8, *geometry, ANY)
        for data in (blob + b"\0", blob + b"\0\0", blob + bytes(200), blob[:-1], blob[:-2], blob[:-100], b""):
            with pytest.raises(CorruptStreamError):
                decode_symbols(Method.BUCKETS, data, symbols.copy(), geometry, 8, State())


def test_noise_is_no_matrix():
    rng = np.random.default_rng(4)
    for geometry in (Geometry(3, 4), Geometry(90, 60)):
        out, check = guarded(geometry.elements, np.uint8)
        for size in range(80):
            with suppress(CorruptStreamError):
                decode_symbols(Method.BUCKETS, rng.bytes(size), out, geometry, 8, State())
            check()
