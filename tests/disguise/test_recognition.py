"""What is recognised, and that it is exact whatever comes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.disguise import recognise
from tersor.disguise.estimates import estimate
from tersor.disguise.words import KINDS, words_of
from tersor.layers import matrix_shape
from tersor.tensors import Codebook, CompressedTensor, Dense, Patched, SignedZeros, Uniform
from tests.disguise import make
from tests.strategies import DTYPES, random_bits, same_bits

WEIGHT = make.random(96, 384)
KERNEL = make.random(64, 16, 3, 3)


def recognised(tensor: torch.Tensor) -> CompressedTensor:
    found = recognise(tensor)
    assert found is not None
    assert found.shape == tensor.shape and found.dtype == tensor.dtype
    assert same_bits(found.dequantize(), tensor)
    return found


@pytest.mark.parametrize("values", [2, 16, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_clustered_networks_are_codebooks(values, dtype):
    found = recognised(make.clustered(WEIGHT, values).to(dtype))
    assert isinstance(found, Codebook) and found.mask is None
    assert found.codebook.shape == (1, len(make.clustered(WEIGHT, values).to(dtype).unique()))


@pytest.mark.parametrize("values", [16, 256])
def test_clustered_and_pruned_networks_are_codebooks_with_a_mask(values):
    weight = make.pruned(make.clustered(KERNEL, values), 0.33)
    found = recognised(weight)
    assert isinstance(found, Codebook)
    assert torch.equal(found.mask, weight != 0)
    assert 0 not in found.codebook


def test_clustered_rows_have_a_codebook_each():
    weight = torch.stack([make.clustered(row, 7) for row in WEIGHT])
    found = recognised(weight)
    assert isinstance(found, Codebook) and found.codebook.shape == (96, 7)


def test_pruned_networks_have_a_mask():
    weight = make.pruned(KERNEL, 0.1)
    found = recognised(weight)
    assert isinstance(found, Dense) and torch.equal(found.mask, weight != 0)


@pytest.mark.parametrize("weight", [KERNEL, make.clustered(KERNEL, 2000), KERNEL.half(), KERNEL.double() * torch.pi])
def test_zeros_that_a_mask_was_multiplied_into_have_signs(weight):
    kept = make.pruned(KERNEL, 0.2) != 0
    found = recognised(weight * kept)
    assert isinstance(found, SignedZeros) and torch.equal(found.mask, kept)
    assert isinstance(found.base, Codebook if len(found.base.dequantize().unique()) <= 256 else Dense)


@pytest.mark.parametrize("top", [1, 7, 127, 128])
def test_rounded_rows_are_grids_with_both_zeros(top):
    weight = make.per_row(WEIGHT, top)
    found = recognised(weight)
    assert isinstance(found, Uniform) and found.signed_zero
    assert found.group_size == 384 and found.bits == {1: 2, 7: 4, 127: 8, 128: 9}[top]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("weight", [WEIGHT, KERNEL], ids=["linear", "convolution"])
def test_fake_quantized_channels_are_grids(bits, asymmetric, weight):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    weight = make.per_channel(weight * 2 + 0.03, low, high, asymmetric)
    found = recognised(weight)
    assert isinstance(found, (Uniform, Codebook)) and found.bits <= bits
    if bits > 3:
        assert isinstance(found, Uniform) and found.scale.shape == (len(weight), 1)
    assert estimate(found) < 0.3 * weight.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_grids_are_found_in_other_floats(dtype):
    found = recognised(make.per_channel(WEIGHT).to(dtype))
    assert isinstance(found, Uniform) and found.bits == 8 and found.scale.shape == (96, 1)


def test_one_grid_for_a_tensor():
    found = recognised(torch.fake_quantize_per_tensor_affine(WEIGHT, 0.0031, 3, -128, 127))
    assert isinstance(found, Uniform) and found.scale.shape == (1, 1)
    assert float(found.scale) == np.float32(0.0031)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_dequantized_gguf_blocks_are_grids(kind):
    found = recognised(make.gguf(WEIGHT, kind))
    assert isinstance(found, Uniform)
    assert found.group_size == 32 and found.bits == int(kind[1]) and (found.offset is not None) == (kind[-1] == "1")
    assert found.high is None


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_of_bfloat16_weights_are_stored_by_their_ends(kind):
    found = recognised(make.gguf(WEIGHT.bfloat16().float(), kind))
    assert found.high is not None and (found.low is not None) == (kind[-1] == "1")


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_groups_with_zero_points_are_grids(group, dtype):
    found = recognised(make.gptq(WEIGHT, group).to(dtype))
    assert isinstance(found, Uniform) and found.group_size == group and found.bits == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_floats_are_stored_narrow(dtype):
    wide = torch.float64 if dtype == torch.float32 else torch.float32
    found = recognised(WEIGHT.to(dtype).to(wide))
    assert isinstance(found, Dense) and found.values.dtype == dtype
    assert isinstance(recognised(WEIGHT.to(dtype).double()), Dense)


def test_whole_numbers_are_integers():
    found = recognised((WEIGHT * 1e5).round() + 0.0)
    assert isinstance(found, Dense) and found.values.dtype == torch.int16
    found = recognised((WEIGHT.double() * 1e9).round() + 0.0)
    assert isinstance(found, Dense) and found.values.dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint64])
def test_few_distinct_integers_are_a_codebook(dtype):
    tensor = torch.randint(1 << 15, (5,)).to(dtype)[torch.randint(5, (40, 100))]
    assert isinstance(recognised(tensor), Codebook)


def disguises() -> dict[str, torch.Tensor]:
    return {
        "clustered": make.clustered(WEIGHT, 16),
        "pruned": make.pruned(make.clustered(WEIGHT, 16), 0.3),
        "rows": make.per_row(WEIGHT),
        "channels": make.per_channel(WEIGHT, asymmetric=True),
        "q4_1": make.gguf(WEIGHT, "Q4_1"),
        "q8_0": make.gguf(WEIGHT, "Q8_0"),
        "bfloat16": WEIGHT.bfloat16().float(),
        "float16": WEIGHT.half().float(),
        "integers": (WEIGHT * 1e5).round() + 0.0,
    }


ODD = [0x80000000, 0x7FC00001, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 1, 0x80000001, 0x007FFFFF, 0x12345678]


@pytest.mark.parametrize("kind", disguises())
@pytest.mark.parametrize("odd", ["a bit off", *ODD], ids=lambda odd: odd if isinstance(odd, str) else hex(odd))
def test_near_misses_are_exact(kind, odd):
    tensor = disguises()[kind]
    words = tensor.view(torch.int32).reshape(-1).numpy().view(np.uint32)
    words[5000] = words[5000] ^ 1 if odd == "a bit off" else odd
    found = recognise(tensor)
    if found is not None:
        assert same_bits(found.dequantize(), tensor)
    if kind in ("rows", "channels", "q4_1", "q8_0") and odd not in (1, 0x80000001, 0x007FFFFF, 0x80000000):
        assert isinstance(found, Patched) and found.places.numel() == 1


def test_a_few_rows_off_the_grid_are_patched():
    weight = make.per_channel(WEIGHT)
    weight[[3, 50]] = WEIGHT[[3, 50]]
    found = recognised(weight)
    assert isinstance(found, Patched) and found.run == 384 and found.places.tolist() == [3, 50]
    weight[::2] = WEIGHT[::2]
    assert recognise(weight) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_tensors_are_not_recognised(dtype):
    assert recognise(random_bits(torch.Size((50, 64)), dtype, 0)) is None
    if dtype.is_floating_point and dtype.itemsize > 1:
        full = torch.pi if dtype == torch.float64 else 1  # else they are float32 values
        assert recognise(make.random(64, 300).to(dtype) * full) is None
        assert recognise(make.random(2000).to(dtype) * full) is None


@pytest.mark.parametrize("shape", [(), (0,), (5, 0, 3), (1,), (200,)])
def test_tiny_tensors_are_left_alone(shape):
    assert recognise(torch.zeros(shape)) is None


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(disguises())),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32]),
    st.sampled_from([(96, 384), (36864,), (9, 4096), (4096, 9), (128, 32, 3, 3)]),
    st.integers(0, 40),
    st.integers(0, 2**31),
)
def test_any_disguise_with_any_damage_is_exact(kind, dtype, shape, damaged, seed):
    tensor = disguises()[kind].to(dtype).reshape(shape)
    rng = np.random.default_rng(seed)
    words = words_of(tensor)
    places = rng.integers(0, words.size, damaged)
    words[places] = words_of(random_bits(torch.Size((damaged,)), dtype, seed)) if damaged else 0
    found = recognise(tensor)
    if found is not None:
        assert found.shape == tensor.shape and found.dtype == dtype
        assert same_bits(found.dequantize(), tensor)


def test_the_result_shares_no_memory():
    for tensor in disguises().values():
        before = tensor.clone()
        found = recognised(tensor)
        tensor.zero_()
        assert same_bits(found.dequantize(), before)


def test_inputs_of_any_layout_are_not_modified():
    weight = make.clustered(WEIGHT, 16)
    transposed = weight.t()
    before = weight.clone()
    assert same_bits(recognise(transposed).dequantize(), transposed.contiguous())
    assert same_bits(recognise(torch.nn.Parameter(weight)).dequantize(), weight)
    assert same_bits(weight, before)


@pytest.mark.parametrize(
    "hint, tensor",
    [
        ("few", make.clustered(WEIGHT, 256)),
        ("few_in_row", torch.stack([make.clustered(row, 16) for row in WEIGHT])),
        ("zeros", make.pruned(WEIGHT, 0.9)),
        ("bfloat", WEIGHT.bfloat16().float()),
        ("half", WEIGHT.half().float()),
        ("single", WEIGHT.double()),
        ("integers", (WEIGHT * 1e5).round()),
        ("grid", make.per_row(WEIGHT)),
        ("grid", make.gguf(WEIGHT, "Q4_1")),
        ("grid", make.gptq(WEIGHT).half()),
    ],
)
def test_the_first_look_sees_what_is_there(hint, tensor):
    def hints(values):
        return core.probe_disguise(words_of(values), *matrix_shape(values.shape), KINDS[values.dtype].numbers)

    assert hints(tensor) & getattr(core.Hint, hint).value
    assert hints(WEIGHT) == 0
