"""Centroids and kept floats that learn under fixed assignments and masks."""

import pytest
import torch
from torch import nn

from tersor.quantization import Binarize, Cast, Lossless, Palettize, Quantize, Ternarize
from tersor.training.tying import has_values, learned, tie, tied_gradient, untie


@pytest.fixture
def weight():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def test_what_has_values(weight):
    assert has_values(Palettize(bits=2).fit(weight)) and has_values(Lossless().fit(weight, weight > 0))
    for config in (Quantize(bits=4), Binarize(), Ternarize(), Cast("float16")):
        assert not has_values(config.fit(weight))


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_centroid_has_the_sum_of_its_weights_gradients(weight, runs, masked):
    mask = weight.abs() > 0.5 if masked else None
    book = Palettize(bits=1, runs=runs).fit(weight, mask)
    gradient = torch.randn(6, 5)
    found = tied_gradient(gradient, book)
    rows = 6 // runs
    for i in range(6):
        for j in range(5):
            own = [
                gradient[a, b]
                for a in range(6)
                for b in range(5)
                if a // rows == i // rows and book.codes[a, b] == book.codes[i, j] and (mask is None or mask[a, b])
            ]
            if mask is None or mask[i, j]:
                assert float(found[i, j]) == pytest.approx(float(sum(own)), abs=1e-5)


def test_floats_have_their_own_gradient_where_they_are_kept(weight):
    tensor = Lossless().fit(weight, weight > 0)
    gradient = torch.randn(6, 5)
    assert torch.equal(tied_gradient(gradient, tensor), gradient * (weight > 0))


@pytest.mark.parametrize("masked", [False, True])
def test_centroids_move_together(weight, masked):
    """Five steps of Adam on tied weights are five steps on the centroids themselves."""
    mask = weight.abs() > 0.5 if masked else None
    book = Palettize(bits=2).fit(weight, mask)
    target = torch.randn(6, 5)
    layer = nn.Linear(5, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(book.dequantize())
    tie(layer, {"weight": book})
    centroids = book.codebook.clone().requires_grad_()
    kept = torch.ones_like(weight) if mask is None else mask.float()
    optimizers = [torch.optim.Adam([layer.weight], 0.3), torch.optim.Adam([centroids], 0.3)]
    for _ in range(5):
        for optimizer, now in zip(optimizers, (layer.weight, centroids[0][book.codes.long()] * kept), strict=True):
            optimizer.zero_grad()
            (now - target).square().sum().backward()
            optimizer.step()
    found = untie(layer, {"weight": book})["weight"]
    assert torch.allclose(layer.weight, centroids.detach()[0][book.codes.long()] * kept, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.dequantize(), layer.weight)
    assert found.mask is book.mask and not torch.equal(found.codebook, book.codebook)
    assert bool((found.codebook.diff(dim=1) >= 0).all())


def test_centroids_that_pass_each_other_stay_ascending(weight):
    book = Palettize(bits=2, runs=2).fit(weight)
    found = learned(book, -book.dequantize())
    assert torch.allclose(found.dequantize(), -book.dequantize(), rtol=1e-4)
    assert torch.allclose(found.codebook, -book.codebook.flip(1), rtol=1e-4)


def test_centroids_without_weights_stay(weight):
    mask = torch.ones(6, 5, dtype=torch.bool)
    book = Palettize(bits=2).fit(weight, mask)
    mask = book.codes != 3
    book = type(book)(book.shape, book.dtype, mask, book.bits, book.codes, book.codebook)
    found = learned(book, book.dequantize() - 1)
    assert found.codebook[0, 3] == book.codebook[0, 3]
    assert torch.allclose(found.codebook[0, :3], book.codebook[0, :3] - 1)
