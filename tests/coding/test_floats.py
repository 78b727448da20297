"""Arrays of floats: Method.FLOATS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.coding import CodingConfig, CorruptStreamError, Method, State, decode_array, encode_array
from tersor.layers import Geometry
from tests.coding.make import damaged, guarded
from tests.twins import floats as twin

FORMATS = ("float16", "bfloat16", "float32", "float64")
PROFILES = ("small", "fast")


def weights(geometry, name, seed=0, spread=0.5):
    """Bit patterns of normal weights whose rows and columns differ in scale, (N,)."""
    rng = np.random.default_rng(seed)
    scale = 0.05 * np.exp(rng.normal(0, spread, (geometry.rows, 1)) + rng.normal(0, spread, (1, geometry.row_length)))
    values = (scale * rng.normal(0, 1, (geometry.rows, geometry.row_length))).reshape(-1)
    if name == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    values = values.astype(name)
    return values.view(f"u{values.itemsize}")


def native(words, geometry, profile):
    return core.encode_floats(words, *geometry, profile == "small")


def decoded(blob, like, geometry):
    out = np.full_like(like, 1)
    assert core.decode_floats(np.frombuffer(blob, np.uint8), out, *geometry)
    return out


def round_trip(words, geometry, profile, isas=("scalar",)):
    blobs = set()
    for isa in isas:
        core.force_isa(isa)
        blob = native(words, geometry, profile)
        blobs.add(blob)
        if blob:
            np.testing.assert_array_equal(decoded(blob, words, geometry), words)
    assert len(blobs) == 1
    return blob


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("geometry", [Geometry(1, 5), Geometry(3, 33), Geometry(60, 7, 9), Geometry(90, 1031)])
def test_weights_come_back_from_every_instruction_set(name, geometry, profile, every_isa):
    blob = round_trip(weights(geometry, name), geometry, profile, every_isa)
    if geometry.elements > 10_000:
        assert 0 < len(blob) < 0.97 * weights(geometry, name).nbytes


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FORMATS)
def test_rows_narrower_than_the_dtype_cost_what_they_hold(name, profile, every_isa):
    geometry = Geometry(200, 100)
    words = weights(geometry, name)
    full = round_trip(words, geometry, profile, every_isa)
    rows = words.reshape(200, 100)
    cut = 5 if words.itemsize == 2 else 13
    mask = words.dtype.type(~((1 << cut) - 1) & ((1 << 8 * words.itemsize) - 1))
    keep = 1 if name != "bfloat16" else 0  # its mantissa is short
    rows[10:110] &= mask
    rows[150:153] &= mask
    narrow = round_trip(words, geometry, profile, every_isa)
    assert len(full) - len(narrow) > 0.95 * 103 * 100 * cut / 8 * keep
    if words.itemsize > 2:
        rows[160:180] &= words.dtype.type(~((1 << 20) - 1) & ((1 << 8 * words.itemsize) - 1))
        assert len(narrow) - len(round_trip(words, geometry, profile, every_isa)) > 0.9 * 20 * 100 * 20 / 8


def test_whole_arrays_of_narrow_floats_cost_half():
    geometry = Geometry(64, 100)
    for name, shift in (("bfloat16", 16), ("float16", None)):
        half = weights(geometry, name)
        wide = half.astype(np.uint32) << shift if shift else half.view(np.float16).astype(np.float32).view(np.uint32)
        for profile in PROFILES:
            assert len(round_trip(wide, geometry, profile)) < 1.02 * len(round_trip(half, geometry, profile))


SPECIALS = {
    2: [0x8000, 0x7E01, 0xFC01, 0x7C00, 0xFC00, 0x0001, 0x83FF, 0x7F80, 0xFF81, 0x7FC0],
    4: [0x80000000, 0x7FC00001, 0xFF800001, 0x7F800000, 0xFF800000, 0x00000001, 0x807FFFFF, 0x33800000],
    8: [1 << 63, 0x7FF8000000000001, 0xFFF0000000000001, 0x7FF0000000000000, 1, 0x800FFFFFFFFFFFFF],
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FORMATS)
def test_special_values_keep_their_bits(name, profile, every_isa):
    geometry = Geometry(96, 101)
    words = weights(geometry, name)
    specials = np.array(SPECIALS[words.itemsize], words.dtype)
    places = np.random.default_rng(1).choice(words.size, 3 * len(specials), replace=False)
    words[places] = np.tile(specials, 3)
    words[303:404] = 0  # a row of zeros
    assert round_trip(words, geometry, profile, every_isa)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_bits_come_back(data):
    dtype = data.draw(st.sampled_from([np.uint16, np.uint32, np.uint64]))
    geometry = Geometry(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    words = rng.integers(0, np.iinfo(dtype).max, geometry.elements, dtype, endpoint=True)
    shift = data.draw(st.integers(0, 8 * words.itemsize - 1))
    words = words << dtype(shift) if data.draw(st.booleans()) else words >> dtype(shift)
    for profile in PROFILES:
        round_trip(words, geometry, profile)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("geometry", [Geometry(1, 4100), Geometry(70, 80), Geometry(24, 25, 9)])
def test_the_bytes_are_those_of_the_twin(name, geometry, profile):
    words = weights(geometry, name)
    words.reshape(geometry.rows, -1)[1::3] &= np.array(-8, np.int64).view(np.uint64).astype(words.dtype)
    words[7] = SPECIALS[words.itemsize][1]
    blob = native(words, geometry, profile)
    bits = 8 * words.itemsize
    assert twin.decode(blob, bits, geometry) == words.tolist()
    head, _ = twin.read_head(blob, geometry.rows)
    assert twin.encode(words.tolist(), bits, geometry, head, twin.symbol_blob(blob, geometry.rows)) == blob


@pytest.mark.parametrize(
    "name, small, fast", [("float32", 0.15, 0.14), ("bfloat16", 0.3, 0.28), ("float16", 0.13, 0.11)]
)
def test_both_profiles_shrink_weights_and_small_more(name, small, fast):
    geometry = Geometry(512, 512)
    words = weights(geometry, name, spread=0.3)
    sizes = {profile: len(native(words, geometry, profile)) / words.nbytes for profile in PROFILES}
    assert sizes["small"] < 1 - small and sizes["fast"] < 1 - fast and sizes["small"] < sizes["fast"]


def test_what_is_no_ordinary_float_is_left_to_others():
    geometry = Geometry(100, 100)
    words = weights(geometry, "float32")
    sparse = np.where(np.random.default_rng(2).random(words.size) < 0.5, 0, words).astype(np.uint32)
    noise = np.random.default_rng(3).integers(0, 2**32, words.size, np.uint32)
    for profile in PROFILES:
        assert native(sparse, geometry, profile) == native(noise, geometry, profile) == b""
        config = CodingConfig(profile=profile)
        assert encode_array(words, "float", geometry, config, State())[0] == Method.FLOATS
        assert encode_array(words, "unsigned", geometry, config, State())[0] != Method.FLOATS
        assert encode_array(words[:300], "float", Geometry(3, 100), config, State())[0] != Method.FLOATS


def test_words_of_a_byte_and_other_kinds_are_refused():
    blob = native(weights(Geometry(64, 100), "float32"), Geometry(64, 100), "fast")
    for out, kind in (
        (np.zeros(6400, np.uint8), "float"),
        (np.zeros(6400, np.uint32), "unsigned"),
        (np.zeros(6400, np.uint16), "float"),
    ):
        with pytest.raises(CorruptStreamError):
            decode_array(Method.FLOATS, blob, out, kind, Geometry(64, 100), State())


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("geometry", [Geometry(64, 70), Geometry(700, 100)])
def test_damage_is_refused_or_stays_inside(name, geometry, profile, every_isa):
    rng = np.random.default_rng(5)
    words = weights(geometry, name)
    words.reshape(geometry.rows, -1)[::3] &= np.array(-16, np.int64).view(np.uint64).astype(words.dtype)
    blob = native(words, geometry, profile)
    assert blob
    out, check = guarded(words.size, words.dtype)
    errors = 0
    for isa in every_isa:
        core.force_isa(isa)
        for i in range(100 if words.size < 10_000 else 20):
            data = damaged(blob, rng)
            if i % 3 == 0:  # the head, and that of the symbols
                data = bytearray(blob)
                data[rng.integers(120)] ^= 1 << int(rng.integers(8))
            try:
                decode_array(Method.FLOATS, bytes(data), out, "float", geometry, State())
            except CorruptStreamError:
                errors += 1
            check()
    assert errors > 0


def test_bytes_behind_the_end_and_lost_bytes_are_noticed():
    geometry = Geometry(64, 70)
    for name in FORMATS:
        words = weights(geometry, name)
        for profile in PROFILES:
            blob = native(words, geometry, profile)
            for data in (blob + b"\0", blob + bytes(99), blob[:-1], blob[: len(blob) // 2], blob[:5], b""):
                with pytest.raises(CorruptStreamError):
                    decode_array(Method.FLOATS, data, words.copy(), "float", geometry, State())
