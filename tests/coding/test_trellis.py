"""Codes of a trellis as indices, and their streams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.calibration.damping import Factor
from tersor.calibration.trellis import trellis_codes
from tersor.coding import (
    CodingConfig,
    CorruptStreamError,
    State,
    decode_symbols,
    encode_symbols,
    into_codes,
    to_indices,
)
from tersor.errors import MismatchError
from tersor.layers import Geometry
from tests.twins import adaptive as adaptive_twin
from tests.twins import trellis_path as twin
from tests.twins.adaptive import Model


def random_indices(seed, rows, length, spread):
    rng = np.random.default_rng(seed)
    return np.clip(np.round(rng.laplace(0, spread, (rows, length))), -8000, 8000).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    length=st.integers(1, 40),
    states=st.sampled_from([1, 4, 8]),
    spread=st.sampled_from([0.3, 3.0, 1000.0]),
    pruned=st.booleans(),
)
def test_there_and_back_as_the_twin(seed, rows, length, states, spread, pruned):
    k = random_indices(seed, rows, length, spread)
    mask = np.random.default_rng(seed).random(k.shape) < 0.7 if pruned else None
    kept = None if mask is None else mask.reshape(-1)
    expected = twin.from_indices(np.where(mask, k, 0) if pruned else k, states, mask)
    codes = k.reshape(-1).copy()
    into_codes(codes, length, states, 16, kept)
    assert np.array_equal(codes, expected.reshape(-1))
    garbage = codes if mask is None else np.where(kept, codes, 77).astype(np.int16)
    back = to_indices(garbage, length, states, kept)
    assert np.array_equal(back, np.where(mask, k, 0).reshape(-1) if pruned else k.reshape(-1))
    assert np.array_equal(back.reshape(k.shape), twin.to_indices(expected, states, mask)[0])
    if np.abs(expected).max() < 128:
        narrow = codes.astype(np.int8)
        assert np.array_equal(to_indices(narrow, length, states, kept), back)


def test_codes_that_are_no_path_are_refused():
    with pytest.raises(MismatchError, match="the code 1 of row 0, column 0"):
        to_indices(np.array([1, 0], np.int16), 2, 8)
    with pytest.raises(MismatchError, match="the code 4 of row 1, column 2"):
        to_indices(np.array([2, 0, 0, 0, 2, 4], np.int8), 3, 4)


@pytest.mark.parametrize(("bits", "index", "good"), [(4, 3, True), (4, 4, False), (4, -4, True), (4, -5, False)])
def test_indices_that_leave_the_width_are_refused(bits, index, good):
    codes = np.array([index], np.int8)
    if good:
        into_codes(codes, 1, 8, bits)
        assert codes[0] == 2 * index
    else:
        with pytest.raises(CorruptStreamError, match="4 bits"):
            into_codes(codes, 1, 8, bits)


def test_the_widest_codes():
    k = np.array([-16384, 1, 0, 16384, -16383], np.int16)  # states 0, 0, 2, 1 (odd codes), 5 (odd codes)
    codes = k.copy()
    into_codes(codes, 5, 8, 16)
    assert codes.tolist() == [-32768, 2, 0, 32767, -32765]
    assert np.array_equal(to_indices(codes, 5, 8), k)


@pytest.mark.parametrize("coder", ["auto", "raw", "rans", "huffman", "register", "buckets", "adaptive"])
def test_every_method_carries_indices(coder):
    k = random_indices(3, 40, 54, 2.0).reshape(-1)
    geometry = Geometry(40, 6, 9)
    kept = np.random.default_rng(0).random(k.size) < 0.8
    for where in (None, kept):
        symbols = k.astype(np.int8)
        method, blob = encode_symbols(symbols, geometry, 7, CodingConfig(coder), State(), where, 8)
        out = np.zeros_like(symbols)
        decode_symbols(method, blob, out, geometry, 7, State(), where, 8)
        assert np.array_equal(out, symbols if where is None else np.where(where, symbols, 0))


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("geometry", [(6, 5, 9), (25, 20, 1), (3, 4, 49), (30, 1, 25), (1, 300, 1), (300, 1, 1)])
@pytest.mark.parametrize(("bits", "spread"), [(4, 0.4), (8, 6.0), (16, 400.0)])
def test_adaptive_streams_are_those_of_the_twin(geometry, states, bits, spread, every_isa):
    geometry = Geometry(*geometry)
    native, model = {isa: State() for isa in every_isa}, Model(states)
    most = (1 << bits - 1) - 1
    for seed, density in enumerate((None, 0.5, 0.05)):
        rng = np.random.default_rng(seed)
        alive = rng.random((geometry.rows, 1, 1)) < 0.8
        symbols = np.clip(np.round(rng.laplace(0, spread, geometry) * alive), -most, most)
        symbols = symbols.astype(np.int8 if bits <= 8 else np.int16).reshape(-1)
        kept = None if density is None else rng.random(symbols.size) < density
        flags = None if kept is None else kept.tolist()
        shape = (geometry.row_length, geometry.kernel, 0)
        expected = adaptive_twin.encode(symbols.tolist(), geometry, bits, True, model, flags)
        for isa, state in native.items():
            core.force_isa(isa)
            before = state.copy()
            assert core.encode_adaptive(symbols, bits, *shape, state.native, flat(kept), states) == expected
            back = np.zeros_like(symbols)
            assert core.decode_adaptive(expected, back, bits, *shape, before.native, flat(kept), states)
            assert np.array_equal(back, symbols if kept is None else np.where(kept, symbols, 0))
    alone = core.encode_adaptive(symbols, bits, *shape, State().native, flat(kept), states)
    assert adaptive_twin.decode(alone, geometry, bits, True, Model(states), flags) == [
        int(x) if there else None for x, there in zip(symbols, flags, strict=True)
    ]


def flat(kept):
    return None if kept is None else kept.view(np.uint8)


def test_states_are_worth_bytes():
    """Real paths: the grid of a weight tells how probable zero is."""
    factor = Factor(None, torch.ones(1, 288, dtype=torch.float64))
    weight = torch.randn(1, 64, 288, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes, _ = trellis_codes(weight, torch.full((1, 64), 1.3), factor)
    k = to_indices(codes.reshape(-1).numpy(), 288, 8)
    geometry, config = Geometry(64, 32, 9), CodingConfig("adaptive")
    sizes = {states: len(encode_symbols(k, geometry, 16, config, State(), None, states)[1]) for states in (1, 8)}
    assert sizes[8] < 0.97 * sizes[1]


def test_bad_arguments():
    with pytest.raises(ValueError, match="1, 4 or 8"):
        core.trellis_indices(np.zeros(2, np.int8), np.zeros(2, np.int8), 1, 3)
    with pytest.raises(ValueError, match="dtype and size"):
        core.trellis_indices(np.zeros(2, np.int8), np.zeros(3, np.int8), 1, 8)
    with pytest.raises(ValueError, match="dtype and size"):
        core.trellis_indices(np.zeros(2, np.int8), np.zeros(2, np.int8), 0, 8)
    with pytest.raises(ValueError, match="int8 or int16"):
        core.trellis_codes(np.zeros(2, np.uint8), 1, 8, 4)
    with pytest.raises(ValueError, match="bits"):
        core.trellis_codes(np.zeros(2, np.int8), 1, 8, 9)
    with pytest.raises(ValueError, match="signed"):
        encode_symbols(np.zeros(2, np.uint8), Geometry(1, 2), 4, CodingConfig(), State(), None, 8)
