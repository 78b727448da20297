import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersor._native import core
from tersor.coding import CodingConfig, CorruptStreamError, Method, State, decode_mask, encode_mask
from tersor.coding.masks import _split_gaps
from tersor.layers import Geometry
from tests.coding.make import geometry_of
from tests.twins import masks as twin
from tests.twins.adaptive import Model

DENSITIES = (0, 0.002, 0.1, 0.5, 0.9, 1)


def random_mask(density, count, seed=0):
    return (np.random.default_rng(seed).random(count) < density).astype(np.uint8)


def round_trip(mask, geometry, config):
    method, blob = encode_mask(mask, geometry, config, State())
    out = np.full_like(mask, 1)
    decode_mask(method, blob, out, geometry, State())
    np.testing.assert_array_equal(out, mask)
    return method, blob


@given(
    mask=hnp.arrays(np.bool_, st.integers(0, 600)),
    coder=st.sampled_from(["auto", "raw", "rans", "huffman", "register", "adaptive"]),
    profile=st.sampled_from(["small", "fast"]),
    kernel=st.sampled_from([1, 2, 9]),
)
@settings(max_examples=150, deadline=None)
def test_any_mask_comes_back(mask, coder, profile, kernel):
    _, blob = round_trip(mask, geometry_of(mask.size, kernel), CodingConfig(coder, profile))
    assert len(blob) <= -(-mask.size // 8)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("profile", ["small", "fast"])
def test_long_masks_cost_what_their_entropy_says(density, profile):
    mask = random_mask(density, 1 << 17)
    method, blob = round_trip(mask, Geometry(256, 512), CodingConfig(profile=profile))
    p = mask.mean()
    bound = 0 if p in (0, 1) else -mask.size / 8 * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert len(blob) <= (1.02 if profile == "small" else 1.1) * bound + 32
    assert profile == "small" or method != Method.MASK_BITS


def test_structure_is_found():
    rows = random_mask(0.3, 300, seed=1)
    mask = np.repeat(rows, 100)
    method, blob = round_trip(mask, Geometry(300, 100), CodingConfig())
    assert method == Method.MASK_BITS
    columns = np.tile(random_mask(0.3, 100, seed=2), 300)
    _, column_blob = round_trip(columns, Geometry(300, 100), CodingConfig())
    assert len(blob) < 400 and len(column_blob) < 400


@pytest.mark.parametrize("density", DENSITIES)
def test_bits_are_those_of_the_twin(density):
    geometry = Geometry(7, 8, 9)
    state, model, back = State(), Model(), Model()
    for seed in range(2):
        mask = random_mask(density, geometry.elements, seed)
        blob = core.encode_mask(mask, geometry.row_length, geometry.kernel, state.native)
        assert blob == twin.encode_bits(mask.tolist(), geometry, model)
        assert twin.decode_bits(blob, geometry, back) == mask.tolist()


@pytest.mark.parametrize("density", DENSITIES)
def test_runs_are_those_of_the_twin(density):
    mask = random_mask(density, 5000)
    rarer, symbols = twin.gap_symbols(mask.tolist())
    positions = np.flatnonzero(mask == rarer)
    assert _split_gaps(np.diff(positions, prepend=-1) - 1).tolist() == symbols
    assert twin.from_gap_symbols(rarer, symbols, mask.size) == mask.tolist()


@pytest.mark.parametrize("gap", [254, 255, 256, 509, 510, 511, 3000])
def test_long_gaps_escape(gap):
    mask = np.zeros(gap + 1, np.uint8)
    mask[gap] = 1
    method, _ = round_trip(mask, Geometry(1, mask.size), CodingConfig("rans"))
    assert method == Method.MASK_RUNS


def test_runs_beyond_the_end_are_refused():
    config = CodingConfig("rans")
    geometry = Geometry(1, 1000)
    mask = np.zeros(1000, np.uint8)
    mask[[100, 900]] = 1
    method, blob = encode_mask(mask, geometry, config, State())
    assert method == Method.MASK_RUNS
    with pytest.raises(CorruptStreamError):
        decode_mask(method, blob, np.zeros(900, np.uint8), Geometry(1, 900), State())


def test_what_is_no_mask_is_refused():
    with pytest.raises(ValueError):
        encode_mask(np.full(4, 2, np.uint8), Geometry(1, 4), CodingConfig(), State())
    with pytest.raises(ValueError):
        encode_mask(np.zeros(4, np.int8), Geometry(1, 4), CodingConfig(), State())
    with pytest.raises(ValueError):
        encode_mask(np.zeros(4, np.uint8), Geometry(1, 5), CodingConfig(), State())
    with pytest.raises(CorruptStreamError):
        decode_mask(Method.RANS, b"1", np.zeros(4, np.uint8), Geometry(1, 4), State())
    with pytest.raises(CorruptStreamError):
        decode_mask(Method.MASK_BITS, b"", np.zeros(0, np.uint8), Geometry(0, 4), State())
