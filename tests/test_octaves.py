"""Steps on a logarithmic grid."""

import math

import torch

from tersor.octaves import steps_of_multipliers


def test_every_multiplier():
    base = torch.tensor([[0.0123], [-3.0]]).to(torch.bfloat16)
    m = torch.arange(-128, 128).to(torch.int8)
    got = steps_of_multipliers(base, m)
    assert got.dtype == torch.float32
    exact = [[float(b) * math.exp2(int(k) / 8) for k in m] for b in base]
    torch.testing.assert_close(got.double(), torch.tensor(exact, dtype=torch.float64), rtol=1.3e-7, atol=0)
    assert torch.equal(got[:, 128::8], base.float() * torch.tensor([2.0**n for n in range(16)]))


def test_the_bits_of_some_steps():
    """They must never change: files hold base and multipliers in place of steps."""
    base = torch.tensor([[1.0078125]], dtype=torch.bfloat16)
    got = steps_of_multipliers(base, torch.tensor([[-9, -1, 0, 3, 8, 15]], dtype=torch.int8))
    assert got.view(torch.int32).tolist() == [[1055692360, 1064080968, 1065418752, 1067928277, 1073807360, 1080858184]]
