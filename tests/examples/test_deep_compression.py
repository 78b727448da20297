"""The example's short version, and how it counts bytes."""

import json

import pytest
import torch
from torch import nn

from examples import deep_compression
from examples.deep_compression import STUDIES, huffman_bits, paper_bytes
from tests.twins import huffman


def test_the_short_version(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    (result,) = deep_compression.main(["--short", "LeNet-300-100"])
    assert json.dumps(result)
    stages = [row["stage"] for row in result["rows"]]
    assert stages == ["trained", "pruned, step 1 of 2", "pruned, step 2 of 2", "clustered", "centroids trained"]
    assert result["rows"][-1]["error"]["mean"] < 30
    arms = result["ablation"]
    files = [arm["file"] for arm in arms]
    assert files == sorted(files, reverse=True) and files[0] == result["original_bytes"] == 4 * 266_610
    counted = [arm["paper"] for arm in arms[:-1]]
    assert counted == sorted(counted, reverse=True) and arms[-1]["paper"] is None


@pytest.mark.parametrize("counts", [[5], [1, 1], [8, 3, 1, 1], [7, 7, 7, 2, 30]])
def test_huffmans_bits(counts):
    symbols = torch.cat([torch.full((count,), symbol) for symbol, count in enumerate(counts)])
    lengths = huffman.code_lengths(counts, 15) if len(counts) > 1 else [1]
    assert huffman_bits(symbols) == sum(count * length for count, length in zip(counts, lengths, strict=True))


def test_gaps_that_are_too_long_take_entries_of_their_own():
    layer = nn.Linear(100, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 3] = 1.0  # a gap of 3
        layer.weight[0, 36] = 2.0  # of 32: one filler, then a gap of 0
        layer.weight[0, 98] = 1.0  # of 61: one filler, then 29
    counted = paper_bytes(layer, STUDIES[0])
    assert counted["floats"] == (5 * (32 + 5) + 32) / 8
    assert counted["codes"] == (5 * (6 + 5) + 2 * 32 + 32) / 8
    gaps, codes = [3, 31, 0, 31, 29], [0, 2, 1, 2, 0]
    both = huffman_bits(torch.tensor(gaps)) + huffman_bits(torch.tensor(codes))
    assert counted["huffman"] == (both + 2 * 32 + 32) / 8


def test_biases_and_dense_networks():
    layer = nn.Conv2d(1, 2, 3)
    counted = paper_bytes(layer, STUDIES[1])
    assert counted["floats"] == (18 * (32 + 8) + 2 * 32) / 8
