import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.coding import (
    CodingConfig,
    CorruptStreamError,
    Method,
    State,
    decode_symbols,
    encode_symbols,
    entropy,
)
from tersor.layers import Geometry
from tests.coding.make import SHAPES, WIDTHS, geometry_of, limits, symbols_of
from tests.twins import adaptive as adaptive_twin
from tests.twins import huffman as huffman_twin
from tests.twins import rans as rans_twin
from tests.twins.adaptive import Model

CODED = {"rans": Method.RANS, "huffman": Method.HUFFMAN, "adaptive": Method.ADAPTIVE}
ENCODE = {"rans": core.encode_rans, "huffman": core.encode_huffman}
DECODE = {"rans": core.decode_rans, "huffman": core.decode_huffman}
TWIN = {"rans": rans_twin, "huffman": huffman_twin}


def decoded(method, blob, like, geometry, bits, state=None):
    out = np.full_like(like, 1)
    decode_symbols(method, blob, out, geometry, bits, state or State())
    return out


def native_encode(coder, symbols, geometry, bits, state=None):
    """The coder's blob, even where raw bits would be smaller."""
    if coder != "adaptive":
        return ENCODE[coder](symbols, bits)
    state = state or State()
    return core.encode_adaptive(symbols, bits, geometry.row_length, geometry.kernel, bits, state.native)


def as_indices(symbols, bits):
    return (symbols.astype(int) - limits(symbols.dtype, bits)[0]).tolist()


@pytest.mark.parametrize("coder", CODED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_every_width_comes_back(coder, shape, dtype, every_isa):
    for bits in WIDTHS[dtype]:
        for count in (1, 2, 97, 5000):
            symbols = symbols_of(shape, dtype, bits, count)
            geometry = geometry_of(count)
            blobs = set()
            for isa in every_isa:
                core.force_isa(isa)
                blob = native_encode(coder, symbols, geometry, bits)
                blobs.add(blob)
                np.testing.assert_array_equal(decoded(CODED[coder], blob, symbols, geometry, bits), symbols)
            assert len(blobs) == 1


@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.int8, 5), (np.int8, 1), (np.int16, 9), (np.int16, 16)])
@pytest.mark.parametrize("shape", ["normal", "rare"])
def test_long_streams_of_many_lanes(coder, dtype, bits, shape, every_isa):
    symbols = symbols_of(shape, dtype, bits, 65536 + 77)
    geometry = Geometry(1, symbols.size)
    blobs = set()
    for isa in every_isa:
        core.force_isa(isa)
        blob = native_encode(coder, symbols, geometry, bits)
        blobs.add(blob)
        np.testing.assert_array_equal(decoded(CODED[coder], blob, symbols, geometry, bits), symbols)
    assert len(blobs) == 1


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_symbols_come_back_in_any_config(data):
    dtype = data.draw(st.sampled_from(list(WIDTHS)))
    bits = data.draw(st.sampled_from(WIDTHS[dtype]))
    low, high = limits(dtype, bits)
    symbols = np.array(data.draw(st.lists(st.integers(low, high), max_size=300)), dtype)
    geometry = geometry_of(symbols.size, data.draw(st.sampled_from([1, 3])))
    config = CodingConfig(
        data.draw(st.sampled_from(["auto", "raw", *CODED])), data.draw(st.sampled_from(["small", "fast"]))
    )
    method, blob = encode_symbols(symbols, geometry, bits, config, State())
    assert len(blob) <= -(-symbols.size * bits // 8)
    np.testing.assert_array_equal(decoded(method, blob, symbols, geometry, bits), symbols)


@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype, bits, count",
    [(np.uint8, 8, 3000), (np.int8, 4, 700), (np.int8, 2, 4100), (np.int16, 10, 900), (np.int16, 14, 400)],
)
def test_static_coders_write_the_bytes_of_their_twins(coder, shape, dtype, bits, count):
    symbols = symbols_of(shape, dtype, bits, count, seed=1)
    blob = ENCODE[coder](symbols, bits)
    indices = as_indices(symbols, bits)
    assert blob == TWIN[coder].encode(indices, bits)
    assert TWIN[coder].decode(blob, count, bits) == indices


@pytest.mark.parametrize("dtype, bits", [(np.int16, 13), (np.int16, 9), (np.uint8, 8)])
@pytest.mark.parametrize("shape", ["normal", "rare"])
def test_the_twin_of_rans_agrees_on_32_lanes(shape, dtype, bits):
    symbols = symbols_of(shape, dtype, bits, 66000, seed=2)
    assert core.encode_rans(symbols, bits) == rans_twin.encode(as_indices(symbols, bits), bits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.uint8, 3), (np.int8, 2), (np.int8, 8), (np.int16, 16)])
def test_adaptive_writes_the_bytes_of_its_twin(shape, dtype, bits):
    geometry = Geometry(6, 5, 9)
    state, model, back = State(), Model(), Model()
    for seed in range(2):  # the second stream meets what the first taught
        symbols = symbols_of(shape, dtype, bits, geometry.elements, seed)
        blob = native_encode("adaptive", symbols, geometry, bits, state)
        signed = symbols.dtype.kind == "i"
        assert blob == adaptive_twin.encode(symbols.tolist(), geometry, bits, signed, model)
        assert adaptive_twin.decode(blob, geometry, bits, signed, back) == symbols.tolist()


def weights_of(dtype, bits, geometry, seed):
    """Rows and channels of different scale, some of them all zero, and kernels whose pixels are alike."""
    rng = np.random.default_rng(seed)
    low, high = limits(dtype, bits)
    rows, channels = (np.exp(rng.normal(0, 1, n)) * (rng.random(n) < 0.8) for n in geometry[:2])
    noise = rng.normal(0, 1, geometry) + 2 * rng.normal(0, 1, (*geometry[:2], 1))
    values = noise * rows[:, None, None] * channels[:, None] * (high - low) / 12
    return np.clip(np.round(values + (low + high + 1) // 2), low, high).astype(dtype).reshape(-1)


@pytest.mark.parametrize(
    "geometry",
    [(6, 5, 9), (25, 20, 1), (3, 4, 49), (5, 7, 6), (30, 1, 25), (12, 1, 9), (1, 300, 1), (300, 1, 1), (2, 1, 150)],
)
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 4), (np.int8, 5), (np.int16, 12)])
def test_adaptive_streams_of_any_geometry_are_those_of_the_twin(geometry, dtype, bits):
    geometry = Geometry(*geometry)
    state, model = State(), Model()
    for seed, density in enumerate((None, 0.5, 0.05)):
        symbols = weights_of(dtype, bits, geometry, seed)
        kept = None if density is None else (np.random.default_rng(seed).random(symbols.size) < density)
        mask = None if kept is None else kept.view(np.uint8)
        blob = core.encode_adaptive(symbols, bits, geometry.row_length, geometry.kernel, 0, state.native, mask)
        flags = None if kept is None else kept.tolist()
        assert blob == adaptive_twin.encode(symbols.tolist(), geometry, bits, dtype != np.uint8, model, flags)
    assert adaptive_twin.decode(
        core.encode_adaptive(symbols, bits, geometry.row_length, geometry.kernel, 0, State().native, mask),
        geometry,
        bits,
        dtype != np.uint8,
        Model(),
        flags,
    ) == [int(x) if there else None for x, there in zip(symbols, flags, strict=True)]


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_kept_symbols_come_back_in_place(data):
    dtype = data.draw(st.sampled_from(list(WIDTHS)))
    bits = data.draw(st.sampled_from(WIDTHS[dtype]))
    geometry = Geometry(*data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 4, 9]))))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    symbols = symbols_of("normal", dtype, bits, geometry.elements)
    kept = rng.random(geometry.elements) < data.draw(st.sampled_from([0, 0.1, 0.9, 1]))
    coder = data.draw(st.sampled_from(["auto", "raw", *CODED]))
    method, blob = encode_symbols(symbols, geometry, bits, CodingConfig(coder), State(), kept)
    out = np.full_like(symbols, 1)
    decode_symbols(method, blob, out, geometry, bits, State(), kept.view(np.uint8))
    np.testing.assert_array_equal(out, np.where(kept, symbols, 1))
    assert len(blob) <= -(-int(kept.sum()) * bits // 8)


def test_what_is_not_kept_costs_nothing_and_keeps_its_place():
    # Columns of different scale: known only if the gaps are left open.
    rng = np.random.default_rng(11)
    scale = np.exp(rng.normal(0, 1, 64))
    symbols = np.clip(np.round(rng.normal(0, 6, (200, 64)) * scale), -128, 127).astype(np.int8).reshape(-1)
    kept = rng.random(symbols.size) < 0.3
    config = CodingConfig("adaptive")
    _, in_place = encode_symbols(symbols, Geometry(200, 64), 8, config, State(), kept)
    gathered = symbols[kept]
    _, alone = encode_symbols(gathered, Geometry(1, gathered.size), 8, config, State())
    assert len(in_place) < 0.93 * len(alone)


def test_dead_rows_and_channels_cost_a_flag():
    rng = np.random.default_rng(12)
    live = rng.integers(-8, 8, (20, 12, 9))
    wide = np.zeros((80, 48, 9), int)
    wide[::4, ::4] = live
    sizes = [
        len(encode_symbols(w.astype(np.int8).reshape(-1), Geometry(*w.shape), 4, CodingConfig("adaptive"), State())[1])
        for w in (live, wide)
    ]
    assert sizes[1] < sizes[0] + (80 + 48) / 8 + 50


def test_pixels_that_are_alike_are_predicted():
    rng = np.random.default_rng(13)
    base = rng.normal(0, 40, (40, 30, 1))
    for noise, least in ((5, 0.7), (20, 0.95)):
        weights = np.clip(np.round(base + rng.normal(0, noise, (40, 30, 9))), -128, 127).astype(np.int8)
        flat = weights.reshape(-1)
        _, blob = encode_symbols(flat, Geometry(40, 30, 9), 8, CodingConfig("adaptive"), State())
        assert len(blob) < least * entropy(flat) * flat.size / 8


def test_auto_keeps_the_smallest():
    for shape in SHAPES:
        symbols = symbols_of(shape, np.int8, 4, 2000)
        geometry = geometry_of(2000)
        sizes = [
            len(encode_symbols(symbols, geometry, 4, CodingConfig(coder), State())[1]) for coder in ("raw", *CODED)
        ]
        assert len(encode_symbols(symbols, geometry, 4, CodingConfig(), State())[1]) == min(sizes)


def test_fast_never_chooses_the_adaptive_coder():
    symbols = symbols_of("normal", np.int8, 4, 2000)
    geometry = geometry_of(2000)
    assert encode_symbols(symbols, geometry, 4, CodingConfig(), State())[0] == Method.ADAPTIVE
    method, _ = encode_symbols(symbols, geometry, 4, CodingConfig(profile="fast"), State())
    assert method in (Method.RANS, Method.HUFFMAN)


def test_sizes_of_static_streams_are_near_the_entropy():
    symbols = symbols_of("normal", np.uint8, 8, 1 << 17)
    bound = entropy(symbols) * symbols.size / 8
    assert bound < len(core.encode_rans(symbols, 8)) < 1.005 * bound
    assert bound < len(core.encode_huffman(symbols, 8)) < 1.02 * bound


def test_small_adaptive_streams_are_near_the_entropy_and_below_it_for_structure():
    rng = np.random.default_rng(3)
    plain = np.clip(np.round(rng.normal(0, 2.5, 4000)), -8, 7).astype(np.int8)
    geometry = Geometry(80, 50)
    _, blob = encode_symbols(plain, geometry, 4, CodingConfig("adaptive"), State())
    assert len(blob) < entropy(plain) * plain.size / 8 + 16
    scaled = np.round(rng.normal(0, 2.5, (80, 50)) * np.exp(rng.normal(0, 1, (80, 1))))
    scaled = np.clip(scaled, -8, 7).astype(np.int8).reshape(-1)
    _, blob = encode_symbols(scaled, geometry, 4, CodingConfig("adaptive"), State())
    assert len(blob) < 0.98 * entropy(scaled) * scaled.size / 8


def test_a_constant_stream_costs_two_bytes():
    symbols = np.full(10000, 200, np.uint8)
    assert len(core.encode_rans(symbols, 8)) == 2
    assert len(core.encode_rans(np.full(10000, -1, np.int8), 2)) == 1


def test_no_symbols_are_no_bytes():
    empty = np.empty(0, np.int8)
    assert encode_symbols(empty, Geometry(0, 5), 4, CodingConfig(), State()) == (Method.RAW, b"")
    decode_symbols(Method.RAW, b"", empty, Geometry(0, 5), 4, State())
    with pytest.raises(CorruptStreamError):
        decode_symbols(Method.RANS, b"", empty, Geometry(0, 5), 4, State())


def test_entropy():
    assert entropy(np.empty(0, np.uint8)) == 0
    assert entropy(np.zeros(9, np.int16)) == 0
    assert entropy(np.arange(-8, 8, dtype=np.int8)) == 4
    assert entropy(np.array([0, 0, 0, 1], np.uint8)) == pytest.approx(0.8112781, abs=1e-4)


@pytest.mark.parametrize(
    "symbols, geometry, bits",
    [
        (np.zeros(4, np.int32), Geometry(1, 4), 4),
        (np.zeros((2, 2), np.int8), Geometry(2, 2), 4),
        (np.zeros(8, np.int8)[::2], Geometry(1, 4), 4),
        (np.zeros(4, np.int8), Geometry(1, 5), 4),
        (np.zeros(4, np.int8), Geometry(1, 4), 9),
        (np.zeros(4, np.int8), Geometry(1, 4), 0),
        (np.full(4, 8, np.int8), Geometry(1, 4), 4),
        (np.full(4, -9, np.int8), Geometry(1, 4), 4),
        (np.full(4, 16, np.uint8), Geometry(1, 4), 4),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(symbols, geometry, bits):
    with pytest.raises(ValueError):
        encode_symbols(symbols, geometry, bits, CodingConfig(), State())


@pytest.mark.parametrize("kept", [np.ones(3, bool), np.ones(4, np.int8), np.ones(8, bool)[::2], np.ones((2, 2), bool)])
def test_masks_that_do_not_fit_are_refused(kept):
    with pytest.raises(ValueError):
        encode_symbols(np.zeros(4, np.int8), Geometry(1, 4), 4, CodingConfig(), State(), kept)


def test_methods_of_other_contents_are_refused():
    with pytest.raises(CorruptStreamError, match="PLANES"):
        decode_symbols(Method.PLANES, b"123", np.zeros(3, np.int8), Geometry(1, 3), 8, State())
