import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.container.centring import centred, uncentred
from tests.strategies import same_bits


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 16), st.integers(0, 5), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_codes_come_back_and_zero_is_in_the_middle(bits, rows, length, group, seed):
    generator = torch.Generator().manual_seed(seed)
    half, dtype = 1 << bits - 1, torch.int8 if bits <= 8 else torch.int16
    codes = torch.randint(-half, half, (rows, length), generator=generator).to(dtype)
    size = (1, 1) if group == 0 else (rows, 1 if group == length else -(-length // group))
    scale, offset = torch.randn(size, generator=generator), torch.randn(size, generator=generator) * 4
    if scale.numel():
        scale.reshape(-1)[0], offset.reshape(-1)[-1] = 0, torch.inf
    stored = centred(codes, scale, offset, bits, group)
    assert stored.dtype == dtype and stored.shape == codes.shape
    assert bool(((stored.int() >= -half) & (stored.int() < half)).all())
    assert same_bits(uncentred(stored, scale, offset, bits, group), codes)
    for row in range(rows):
        for column in range(length):
            place = (row if group else 0, column // group if group and scale.shape[1] > 1 else 0)
            quotient = -float(offset[place]) / float(scale[place]) if scale[place] else float("nan")
            if abs(quotient) < 1e6:
                zero = round(float(torch.tensor(min(max(quotient, 0), 2 * half - 1), dtype=torch.float32)))
                expected = (int(codes[row, column]) - zero + half) % (2 * half) - half
                assert abs(int(stored[row, column]) - expected) in (0, 1, 2 * half - 1)  # ties, in another precision
