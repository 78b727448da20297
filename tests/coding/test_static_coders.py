"""The choice among the static coders from one histogram."""

import numpy as np
import pytest

from tersor._native import core
from tersor.coding import CodingConfig, Method, State, encode_symbols
from tests.coding.make import SHAPES, geometry_of, symbols_of

ENCODE = {
    Method.RANS: core.encode_rans,
    Method.HUFFMAN: core.encode_huffman,
    Method.REGISTER: core.encode_register,
}


def is_tried(method, bits, count):
    return method == Method.RANS or (bits <= 8 and count >= 4096 if method == Method.REGISTER else count <= 65536)


def gaussian(count, sigma, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(np.round(rng.normal(0, sigma, count)), -128, 127).astype(np.int8)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype, bits, count",
    [(np.uint8, 8, 1), (np.uint8, 8, 300), (np.int8, 4, 3000), (np.int8, 4, 70_000), (np.int16, 11, 70_000)],
)
def test_the_choice_is_the_smallest_or_nearly(fast, shape, dtype, bits, count):
    symbols = symbols_of(shape, dtype, bits, count)
    number, blob = core.encode_static(symbols, bits, fast)
    raw = -(-count * bits // 8)
    sizes = {m: len(encode(symbols, bits)) for m, encode in ENCODE.items() if is_tried(m, bits, count)}
    best = min(raw, *sizes.values())
    if number == Method.RAW:
        assert blob == b""
        assert raw <= best * 1.001 + 24
    else:
        assert blob == ENCODE[Method(number)](symbols, bits)
        assert len(blob) < raw
        assert len(blob) <= best * (1.009 if fast else 1.001) + 24  # states hold more bits, or fewer


def test_fast_takes_the_registers_where_they_cost_little():
    long = gaussian(1 << 18, 2.2)
    assert core.encode_static(long, 8, True)[0] == Method.REGISTER
    assert core.encode_static(long, 8, False)[0] == Method.RANS
    assert core.encode_static(long[:4000], 8, True)[0] != Method.REGISTER
    assert core.encode_static(gaussian(1 << 18, 40), 8, True)[0] == Method.RANS


@pytest.mark.parametrize("coder", ["rans", "huffman", "register"])
def test_a_coder_that_is_asked_for_is_used_where_it_applies(coder):
    symbols = gaussian(9000, 2.0)
    config = CodingConfig(coder)
    assert encode_symbols(symbols, geometry_of(9000), 8, config, State())[0] == Method[coder.upper()]
    wide = symbols.astype(np.int16)
    expected = Method.RAW if coder == "register" else Method[coder.upper()]
    assert encode_symbols(wide, geometry_of(9000), 16, config, State())[0] == expected
    noise = np.arange(256, dtype=np.uint8)
    assert encode_symbols(noise, geometry_of(256), 8, config, State()) == (Method.RAW, noise.tobytes())
