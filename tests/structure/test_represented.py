"""Positions of compressed tensors: what comes out is what the plain tensor gives, or nothing does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tersor.disguise import recognise
from tersor.quantization import Binarize, Cast, FixedPoint, Lossless, Palettize, Quantize, Ternarize
from tersor.structure.represented import cleared, rearranged

GROUPS = Quantize(bits=4, granularity="group", group_size=3)
OFFSETS = Quantize(bits=4, symmetric=False, granularity="tensor")
RUNS = Palettize(bits=2, runs=3)
CONFIGS = [
    Lossless(),
    Cast("bfloat16"),
    Cast("float8_e4m3fn"),
    Quantize(bits=4, granularity="tensor"),
    Quantize(bits=12),
    FixedPoint(bits=4),
    Palettize(bits=2),
    Binarize(),
    Binarize(granularity="tensor"),
    Ternarize(),
    OFFSETS,
    GROUPS,
    RUNS,
]


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(("shape", "dim"), [((6, 7), 0), ((6, 7), 1), ((6, 4, 3, 2), 0), ((6, 4, 3, 2), 1), ((9,), 0)])
def test_positions_move(config, pruned, shape, dim):
    values = weight(*shape)
    before = config.fit(values, values.abs() > 0.3 if pruned else None)
    source = torch.randperm(shape[dim], generator=torch.Generator().manual_seed(0))
    found = rearranged(before, dim, source)
    along_rows = dim == 1 or len(shape) == 1
    if (config is GROUPS and along_rows) or (config is RUNS and not along_rows):
        assert found is None
        return
    assert found is not None and type(found) is type(before) and (found.mask is None) == (before.mask is None)
    assert torch.equal(found.dequantize(), before.dequantize().index_select(dim, source))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("pruned", [False, True])
def test_positions_become_zero(config, pruned):
    values = weight(6, 8)
    before = config.fit(values, values.abs() > 0.3 if pruned else None)
    where = torch.zeros(6, 8, dtype=torch.bool)
    where[2] = where[:, 5] = True
    found = cleared(before, where)
    if not pruned and isinstance(config, (Palettize, Binarize)):
        assert found is None  # no zeros
        return
    if config is OFFSETS and not pruned and found is None:
        assert not (before.dequantize() == 0).any()  # a grid whose zero no weight has
        return
    assert found is not None and type(found) is type(before) and (found.mask is None) == (before.mask is None)
    assert torch.equal(found.dequantize(), before.dequantize().masked_fill(where, 0))


def test_zeros_that_a_codebook_has():
    values = torch.tensor([[0.0, -1.0, 2.0, -0.0], [2.0, 2.0, -1.0, 0.0]])
    found = cleared(Palettize(bits=2).fit(values), torch.tensor([[True, True, False, False]]).expand(2, 4))
    assert found is not None and torch.equal(found.dequantize()[:, 2:], values[:, 2:])
    assert not found.dequantize()[:, :2].any()


def test_a_trellis_stays():
    """Its codes dequantize in any order, but a file holds them as a path."""
    before = replace(Quantize(bits=4).fit(weight(4, 8)), trellis=4)
    assert rearranged(before, 0, torch.tensor([1, 0, 2, 3])) is None
    assert cleared(before, torch.ones(4, 8, dtype=torch.bool)) is None


def test_patched_tensors_stay():
    values = torch.randint(-7, 8, (64, 64), generator=torch.Generator().manual_seed(0)) * 0.5
    values[3] = weight(64)
    patched = recognise(values)
    assert patched is not None and patched.kind == "patched"
    assert rearranged(patched, 0, torch.arange(63, -1, -1)) is None
    assert cleared(patched, torch.ones(64, 64, dtype=torch.bool)) is None
