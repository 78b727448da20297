"""Round-to-nearest baselines and the order of rotary weights."""

from __future__ import annotations

import pytest
import torch

import tersor
from benchmarks.language import GROUP, minmax, packed_bytes
from benchmarks.smollm import _rotary_halves
from tersor.container.writer import Entry
from tersor.quantization import Lossless


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_minmax_is_at_most_a_step_off(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 2 * GROUP)
    rounded = minmax(weight, bits)
    assert rounded.zero is not None
    step = rounded.scale.repeat_interleave(GROUP, 1)
    # Half a step of rounding, and half a step where the zero point moved an end.
    assert ((rounded.dequantize() - weight).abs() <= 1.01 * step).all()
    assert rounded.codes.unique().numel() == 2**bits


def test_packed_bytes_count_codes_steps_and_vectors() -> None:
    matrix, vector = minmax(torch.randn(8, 2 * GROUP), 3), Lossless().fit(torch.randn(5))
    model = tersor.CompressedModel((Entry("a", matrix), Entry("b", vector)))
    assert packed_bytes(model) == (8 * 2 * GROUP * 3 + 16 * (16 + 3)) // 8 + 4 * 5


def test_rotary_pairs_come_half_a_head_apart() -> None:
    rows = torch.arange(8.0).view(8, 1)  # two heads of four rows: pairs (0, 1), (2, 3); (4, 5), (6, 7)
    assert _rotary_halves(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(_rotary_halves(rows, 0), rows)
