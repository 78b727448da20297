import numpy as np

from tersor.coding import (
    CodingConfig,
    Method,
    State,
    decode_array,
    decode_mask,
    decode_symbols,
    encode_array,
    encode_mask,
    encode_symbols,
)
from tersor.layers import Geometry
from tests.coding.make import symbols_of

ADAPTIVE = CodingConfig("adaptive")
GEOMETRY = Geometry(20, 50)


def test_the_second_stream_profits_from_the_first():
    first, second = (symbols_of("normal", np.int8, 4, 1000, seed) for seed in (1, 2))
    state = State()
    encode_symbols(first, GEOMETRY, 4, ADAPTIVE, state)
    _, warm = encode_symbols(second, GEOMETRY, 4, ADAPTIVE, state)
    _, cold = encode_symbols(second, GEOMETRY, 4, ADAPTIVE, State())
    assert len(warm) < len(cold)


def test_decoding_in_the_same_order_reproduces_a_mixed_chunk():
    rng = np.random.default_rng(3)
    codes = [symbols_of("normal", dtype, 5, 1000, 4) for dtype in (np.int8, np.uint8, np.int16)]
    mask = np.tile(rng.integers(0, 2, 50, dtype=np.uint8), 20)
    words = rng.normal(0, 300, 1000).astype(np.int32).view(np.uint32)
    state = State()
    blobs = []
    for _ in range(2):
        blobs += [encode_symbols(c, GEOMETRY, 5, CodingConfig(), state) for c in codes]
        blobs.append(encode_mask(mask, GEOMETRY, CodingConfig(), state))
        blobs.append(encode_array(words, "signed", GEOMETRY, CodingConfig(), state))
    assert {Method.ADAPTIVE, Method.MASK_BITS, Method.PLANES} <= {method for method, _ in blobs}
    assert len(blobs[8][1]) < len(blobs[3][1])

    state = State()
    stream = iter(blobs)
    for _ in range(2):
        for c in codes:
            out = np.empty_like(c)
            decode_symbols(*next(stream), out, GEOMETRY, 5, state)
            np.testing.assert_array_equal(out, c)
        out = np.empty_like(mask)
        decode_mask(*next(stream), out, GEOMETRY, state)
        np.testing.assert_array_equal(out, mask)
        out = np.empty_like(words)
        decode_array(*next(stream), out, "signed", GEOMETRY, state)
        np.testing.assert_array_equal(out, words)


def test_a_copy_is_independent():
    symbols = symbols_of("normal", np.int8, 4, 1000, 5)
    state = State()
    encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, state)
    copy = state.copy()
    _, expected = encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, copy)
    _, again = encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, state)
    assert again == expected
    _, third = encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, state)
    assert third != again  # `state` went on learning, from where the copy was taken


def test_methods_that_do_not_adapt_leave_the_state_alone():
    symbols = symbols_of("normal", np.int8, 4, 1000, 6)
    state = State()
    encode_symbols(np.full(1000, 3, np.int8), GEOMETRY, 4, CodingConfig(), state)  # rANS wins
    mask = (np.arange(1000) % 64 == 0).astype(np.uint8)
    encode_mask(mask, GEOMETRY, CodingConfig(profile="fast"), state)
    _, blob = encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, state)
    assert blob == encode_symbols(symbols, GEOMETRY, 4, ADAPTIVE, State())[1]
