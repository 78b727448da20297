"""Register-table rANS by itself; what it shares with the other coders is tested in test_symbols.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.coding import entropy
from tests.twins import register_rans as twin


def draw(frequencies, count, seed=0, dtype=np.uint8):
    p = np.asarray(frequencies, float)
    return np.random.default_rng(seed).choice(len(p), size=count, p=p / p.sum()).astype(dtype)


def gaussian(symbols, sigma):
    return np.exp(-0.5 * ((np.arange(symbols) - (symbols - 1) / 2) / sigma) ** 2)


def round_trip(symbols, bits, isas):
    blobs = set()
    for isa in isas:
        core.force_isa(isa)
        blob = core.encode_register(symbols, bits)
        blobs.add(blob)
        out = np.empty_like(symbols)
        assert core.decode_register(np.frombuffer(blob, np.uint8), out, bits)
        np.testing.assert_array_equal(out, symbols)
    assert len(blobs) == 1
    return blob


CASES = {
    "constant": np.r_[0, 0, 1.0],
    "first": np.r_[1.0],
    "binary": np.r_[1.0, 9],
    "nearly constant": np.r_[1, 1e5, 1, 1],
    "ternary": np.r_[1.0, 7, 1],
    "16 codes": gaussian(16, 2.0),
    "16 even": np.ones(16),
    "17": gaussian(17, 4.0),
    "32 codes": gaussian(32, 6.0),
    "32 even": np.ones(32),
    "33 even": np.ones(33),
    "tails": gaussian(101, 4.0) + 1e-6,
    "256": gaussian(256, 20.0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000, 20_000 + 77, 32_768, 32_768 + 77, 262_144 + 127])
def test_symbols_come_back_from_every_instruction_set(name, count, every_isa):
    round_trip(draw(CASES[name], count), 8, every_isa)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [5, 700, 33_000])
def test_the_bytes_are_those_of_the_twin(name, count):
    symbols = draw(CASES[name], count, seed=1)
    blob = core.encode_register(symbols, 8)
    assert blob == twin.encode(symbols.tolist(), 8)
    assert twin.decode(blob, count, 8) == symbols.tolist()


def test_signed_symbols():
    symbols = (draw(gaussian(16, 3.0), 5000).astype(np.int8) - 8).astype(np.int8)
    blob = round_trip(symbols, 4, [core.detected_isa()])
    assert blob == twin.encode((symbols.astype(int) + 8).tolist(), 4)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_frequencies(data):
    weights = data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=48).filter(any))
    count = data.draw(st.integers(1, 3000))
    symbols = draw(weights, count, seed=data.draw(st.integers(0, 99)))
    isas = ("scalar", core.detected_isa())
    try:
        blob = round_trip(symbols, 6, isas)
    finally:
        core.force_isa(core.detected_isa())
    if count < 400:
        assert blob == twin.encode(symbols.tolist(), 6)


@pytest.mark.parametrize("name", ["binary", "ternary", "16 codes", "16 even", "17", "32 codes", "32 even", "tails"])
def test_long_streams_are_within_three_hundredths_of_a_bit(name):
    symbols = draw(CASES[name], 1 << 18)
    blob = core.encode_register(symbols, 8)
    assert len(blob) * 8 / symbols.size < entropy(symbols) + 0.03


def test_alphabets_that_fill_the_width():
    for bits, size in ((1, 2), (4, 16), (5, 32)):
        symbols = draw(np.ones(size), 3000)
        round_trip(symbols, bits, [core.detected_isa()])


def test_wider_symbols_are_refused():
    with pytest.raises(ValueError):
        core.encode_register(np.zeros(300, np.int16), 9)
    assert not core.decode_register(np.zeros(300, np.uint8), np.zeros(300, np.int16), 9)


def corrupted(blob, rng):
    data = np.frombuffer(blob, np.uint8).copy()
    kind = rng.integers(4)
    if kind == 0:
        return data[: rng.integers(0, data.size)]
    if kind == 1:
        return np.r_[data, rng.integers(0, 256, rng.integers(1, 200), dtype=np.uint8)]
    region = data.size if kind == 2 else 80  # anywhere, or in the table
    data[rng.integers(0, min(region, data.size))] ^= 1 << rng.integers(8)
    return data


@pytest.mark.parametrize("name", ["binary", "16 codes", "32 codes", "tails"])
def test_damage_is_seen_or_harmless_and_the_same_everywhere(name, every_isa):
    symbols = draw(CASES[name], 3001, seed=3)
    blob = core.encode_register(symbols, 8)
    rng = np.random.default_rng(4)
    accepted = 0
    for _ in range(300):
        data = corrupted(blob, rng)
        results = []
        for isa in every_isa:
            core.force_isa(isa)
            out = np.zeros_like(symbols)
            results.append(core.decode_register(data, out, 8))
        assert len(set(results)) == 1
        accepted += results[0]
    # A changed symbol of the table, or escaped symbol, is as good as the true one.
    assert accepted < 60


@pytest.mark.parametrize("name", ["16 codes", "tails"])
def test_truncation_and_appended_bytes_are_seen(name):
    symbols = draw(CASES[name], 1000, seed=5)
    blob = np.frombuffer(core.encode_register(symbols, 8), np.uint8)
    out = np.empty_like(symbols)
    for size in range(blob.size):
        assert not core.decode_register(blob[:size].copy(), out, 8)
    assert not core.decode_register(np.r_[blob, np.uint8(0)], out, 8)
    assert not core.decode_register(blob, out[:-1].copy(), 8)
    assert not core.decode_register(blob, np.r_[out, out[:1]], 8)


@pytest.mark.parametrize(
    "head",
    [
        [],
        [0],  # one id
        [64, 1, 2, 3],  # unknown flag
        [1, 3, 3, 100],  # the same symbol twice
        [1, 3, 2, 100],  # descending
        [1, 3, 16, 100],  # out of range
        [1, 3, 4, 0],  # no frequency
        [2, 3, 4, 5, 200, 56],  # none left for the last id
        [33, 3, 100, 0, 0, 0, 0, 0, 0, 0, 0],  # an escape that never comes
        [33, 3, 100, 255, 255, 255, 255, 2, 0, 0, 0, 0, 0],  # more escapes than symbols
        [33, 3, 100, 1, 0, 0, 0, 255, 255, 255, 255, 0],  # a stream beyond the end
    ],
)
def test_bad_heads_are_refused(head):
    blob = np.r_[np.array(head, np.uint8), np.zeros(32, np.uint8), np.ones(32, np.uint8)]
    assert not core.decode_register(blob, np.zeros(200, np.uint8), 4)
