import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.centring import centred, wrapped, zero_levels


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 16), st.integers(0, 5), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_codes_count_from_the_level_of_zero(bits, rows, length, group, seed):
    generator = torch.Generator().manual_seed(seed)
    half, dtype = 1 << bits - 1, torch.int8 if bits <= 8 else torch.int16
    codes = torch.randint(-half, half, (rows, length), generator=generator).to(dtype)
    size = (1, 1) if group == 0 else (rows, 1 if group == length else -(-length // group))
    scale, offset = torch.randn(size, generator=generator), torch.randn(size, generator=generator) * 4
    if scale.numel():
        scale.reshape(-1)[0], offset.reshape(-1)[-1] = 0, torch.inf
    zeros = zero_levels(scale, offset, bits)
    found = centred(codes, scale, offset, bits, group)
    assert found.dtype == dtype and found.shape == codes.shape
    for row in range(rows):
        for column in range(length):
            place = (row if group else 0, column // group if group and scale.shape[1] > 1 else 0)
            level = int(codes[row, column]) + half
            assert int(found[row, column]) == (level - int(zeros[place]) + half) % (2 * half) - half


def test_zero_is_the_nearest_level():
    scale = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.0, 0.0, -0.1, float("nan"), 0.1])
    offset = torch.tensor([-0.5, -0.74, 1.0, -99.0, 0.0, 1.0, 0.5, 1.0, float("inf")])
    assert zero_levels(scale, offset, 4).tolist() == [5, 7, 0, 15, 0, 0, 5, 0, 0]


def test_sums_wrap_around():
    codes = torch.tensor([-9, -8, 7, 8, 100], dtype=torch.int8)
    assert wrapped(codes, 4).tolist() == [7, -8, 7, -8, 4]
