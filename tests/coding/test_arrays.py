import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersor._native import core
from tersor.coding import CodingConfig, CorruptStreamError, Method, State, decode_array, encode_array
from tersor.coding.arrays import _TRANSFORMS
from tersor.coding.varint import read_varint
from tersor.layers import Geometry
from tests.coding.make import geometry_of
from tests.twins import planes as twin

WORDS = (np.uint8, np.uint16, np.uint32, np.uint64)
FAST = CodingConfig(profile="fast")


def round_trip(words, kind, config=FAST, geometry=None):
    geometry = geometry or geometry_of(words.size)
    method, blob = encode_array(words, kind, geometry, config, State())
    out = np.full_like(words, 1)
    decode_array(method, blob, out, kind, geometry, State())
    np.testing.assert_array_equal(out, words)
    return method, blob


def floats(count, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, count).astype(dtype)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_bits_of_any_kind_come_back(data):
    words = data.draw(hnp.arrays(data.draw(st.sampled_from(WORDS)), st.integers(0, 200)))
    kind = data.draw(st.sampled_from(["float", "signed", "unsigned"]))
    config = CodingConfig(
        data.draw(st.sampled_from(["auto", "raw", "rans", "huffman", "register", "adaptive"])),
        data.draw(st.sampled_from(["small", "fast"])),
    )
    _, blob = round_trip(words, kind, config)
    assert len(blob) <= words.nbytes


@given(hnp.arrays(np.bool_, st.integers(0, 300)))
@settings(max_examples=50, deadline=None)
def test_any_bools_come_back(values):
    for profile in ("small", "fast"):
        _, blob = round_trip(values.view(np.uint8), "bool", CodingConfig(profile=profile))
        assert len(blob) <= -(-values.size // 8)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("kind", ["float", "signed", "unsigned"])
def test_planes_are_those_of_the_twin(words, kind):
    rng = np.random.default_rng(4)
    width = 8 * np.dtype(words).itemsize
    data = rng.integers(0, 2**width, 2500, dtype=words)
    data[:4] = [0, 1, 2 ** (width - 1), 2**width - 1]
    planes = np.empty(data.nbytes, np.uint8)
    core.split_planes(data, planes, _TRANSFORMS[kind])
    assert planes.tobytes() == twin.split(data.tolist(), width, kind)
    back = np.empty_like(data)
    core.merge_planes(planes, back, _TRANSFORMS[kind])
    assert back.tolist() == twin.merge(planes.tobytes(), width, kind) == data.tolist()


def test_special_floats_keep_their_bits():
    specials = np.array([0x80000000, 0, 0x7FC00001, 0xFF800001, 0x7F800000, 0x7FA00000, 1, 0x807FFFFF], np.uint32)
    for repeat in (1, 1000):
        round_trip(np.tile(specials, repeat), "float")


@pytest.mark.parametrize(
    "words, least",
    [(floats(1 << 17).view(np.uint32), 0.13), (floats(1 << 17, np.float16).view(np.uint16), 0.12)],
)
def test_weights_shrink(words, least):
    method, blob = round_trip(words, "float")
    assert method == Method.FLOATS and len(blob) < (1 - least) * words.nbytes


def test_bfloat16_values_in_float32_cost_half():
    words = floats(5000).view(np.uint32) & np.uint32(0xFFFF0000)
    words[:3] = [0x7FC00000, 0x80000000, 0xFF800000]
    _, narrow = round_trip(words, "float")
    _, half = round_trip((words >> 16).astype(np.uint16), "float")
    assert len(narrow) == len(half)


def test_float16_values_in_float32_cost_half():
    half = floats(5000, np.float16)
    half[:5] = [6e-8, -0.0, np.inf, 65504, -6e-5]  # subnormals, signed zero, infinity
    _, narrow = round_trip(half.astype(np.float32).view(np.uint32), "float")
    _, alone = round_trip(half.view(np.uint16), "float")
    assert len(narrow) < 1.01 * len(alone)


def test_one_value_that_is_no_float16_keeps_all_as_they_are():
    for word in (np.float32(0.1).view(np.uint32), np.float32(1e9).view(np.uint32), np.uint32(0x7FA02000)):
        words = floats(2000, np.float16).astype(np.float32).view(np.uint32)
        words[1500] = word
        round_trip(words, "float")


def test_constants_cost_two_bytes_a_plane():
    for dtype in WORDS:
        words = np.full(10000, 77, dtype)
        method, blob = round_trip(words, "unsigned")
        assert method == Method.PLANES and len(blob) == 1 + 2 * words.itemsize


def test_small_integers_of_both_signs_leave_their_upper_planes_empty():
    values = np.random.default_rng(5).integers(-100, 100, 4000)
    _, blob = round_trip(values.view(np.uint64), "signed")
    assert len(blob) < 4000 + 40


def test_raw_where_nothing_is_gained():
    noise = np.random.default_rng(6).integers(0, 2**32, 1000, dtype=np.uint32)
    assert round_trip(noise, "unsigned") == (Method.RAW, noise.astype("<u4").tobytes())
    assert round_trip(np.array([5], np.uint16), "signed") == (Method.RAW, b"\5\0")
    assert round_trip(np.empty(0, np.uint64), "float") == (Method.RAW, b"")
    assert round_trip(np.array([1, 0, 1], np.uint8), "bool") == (Method.RAW, b"\5")


def test_the_slow_coder_is_kept_for_planes_that_gain():
    rng = np.random.default_rng(8)
    scale = np.repeat(np.exp(rng.normal(0, 1, 100)), 100)  # rows of different scale: the adaptive coder wins
    top = np.clip(np.round(128 + 10 * scale * rng.normal(0, 1, 10000)), 0, 255).astype(np.uint16)
    noise = rng.integers(0, 256, 10000).astype(np.uint16)
    barely = np.where(rng.random(10000) < 0.05, 7, noise).astype(np.uint16)  # 1 % below 8 bits

    def tags(words):
        method, blob = round_trip(words, "unsigned", CodingConfig(), Geometry(100, 100))
        assert method == Method.PLANES
        length, rest = read_varint(memoryview(blob)[2:])
        return blob[1], rest[length]

    slow = (Method.ADAPTIVE, Method.BUCKETS)
    first, second = tags(top << 8 | noise)
    assert first in slow and second == Method.RAW
    first, second = tags(top << 8 | barely)
    assert first in slow and second in (Method.RANS, Method.HUFFMAN)


def test_raw_leaves_the_state_as_it_was():
    # Planes that were tried and given up must not teach the state anything.
    state, words = State(), np.random.default_rng(7).integers(0, 256, 40, dtype=np.uint8)
    geometry = Geometry(1, 40)
    method, _ = encode_array(words, "unsigned", geometry, CodingConfig("adaptive"), state)
    assert method == Method.RAW
    smooth = (np.arange(900) // 30).astype(np.uint8)
    geometry = geometry_of(900)
    after = encode_array(smooth, "unsigned", geometry, CodingConfig("adaptive"), state)
    assert after == encode_array(smooth, "unsigned", geometry, CodingConfig("adaptive"), State())


@pytest.mark.parametrize(
    "words, kind, geometry",
    [
        (np.zeros(4, np.float32), "float", Geometry(1, 4)),
        (np.zeros(4, np.uint32), "complex", Geometry(1, 4)),
        (np.zeros(4, np.uint16), "bool", Geometry(1, 4)),
        (np.zeros(4, np.uint32), "float", Geometry(1, 3)),
        (np.zeros((2, 2), np.uint32), "float", Geometry(2, 2)),
        (np.full(4, 2, np.uint8), "bool", Geometry(1, 4)),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(words, kind, geometry):
    with pytest.raises(ValueError):
        encode_array(words, kind, geometry, CodingConfig(), State())


@pytest.mark.parametrize(
    "blob, kind",
    [
        (b"", "float"),
        (b"\0", "float"),
        (b"\3\7\1\7\1\7\1\7\1", "float"),  # unknown layout
        (b"\1\7\1\7\1", "unsigned"),  # bfloat16 of integers
        (b"\0\7\1\7\1\7\1", "float"),  # a plane is missing
        (b"\0\7\1\7\1\7\1\7\1\7", "float"),  # something behind the last
        (b"\0\6\1\7\1\7\1\7\1", "float"),  # unknown tag
        (b"\0\1\xff\xff\xff\xff\xff\xff\xff", "float"),  # a length without end
        (b"\0\1\x7f\0", "float"),  # a length beyond the blob
    ],
)
def test_malformed_planes_are_refused(blob, kind):
    with pytest.raises(CorruptStreamError):
        decode_array(Method.PLANES, blob, np.zeros(2, np.uint32), kind, Geometry(1, 2), State())


def test_malformed_raw_is_refused():
    with pytest.raises(CorruptStreamError):
        decode_array(Method.RAW, b"123", np.zeros(1, np.uint32), "float", Geometry(1, 1), State())
    with pytest.raises(CorruptStreamError):
        decode_array(Method.RAW, b"\xff", np.zeros(3, np.uint8), "bool", Geometry(1, 3), State())
    with pytest.raises(CorruptStreamError):
        decode_array(Method.PLANES, b"\0\7\2", np.zeros(3, np.uint8), "bool", Geometry(1, 3), State())
