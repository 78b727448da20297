import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import MismatchError, UsageError
from tersor.layers import matrix_shape
from tersor.quantization import NonFiniteError, Palettize
from tests.quantization.weights import draw_weight, masked_weights, squared_error


@settings(max_examples=80, deadline=None)
@given(masked_weights(), st.integers(1, 8), st.sampled_from([1, 2, 3, 100]))
def test_codes_point_to_the_nearest_centroid(given_weight, bits, runs):
    weight, mask = given_weight
    tensor = Palettize(bits, runs=runs).fit(weight, mask)
    rows = weight.shape[0] if weight.dim() > 1 else 1
    run = max(-(-rows // runs), 1)
    tables, centroids = tensor.codebook.shape
    assert tables == max(-(-rows // run), 1)
    assert centroids <= 2**bits
    assert tensor.codes.dtype == torch.uint8 and tensor.codes.shape == weight.shape
    assert (tensor.codes < centroids).all()
    assert (tensor.codebook[:, 1:] >= tensor.codebook[:, :-1]).all()
    values = tensor.dequantize()
    matrix, got = weight.reshape(matrix_shape(weight.shape)), values.reshape(matrix_shape(weight.shape))
    kept = torch.ones_like(matrix, dtype=torch.bool) if mask is None else mask.reshape(matrix.shape)
    for r in range(rows):
        table = tensor.codebook[r // run].to(torch.float64)
        row = matrix[r][kept[r]].to(torch.float64)
        nearest = (row[:, None] - table).abs().min(dim=1).values
        spread = float(table.abs().max()) if table.numel() else 0.0
        assert ((got[r][kept[r]].to(torch.float64) - row).abs() <= nearest + spread * 2.0**-6).all()


@settings(max_examples=30, deadline=None)
@given(masked_weights(), st.floats(-(2.0**99), 2.0**99, width=32))
def test_pruned_weights_have_no_influence(given_weight, other):
    weight, mask = given_weight
    if mask is None:
        return
    changed = torch.where(mask, weight, torch.tensor(other, dtype=torch.float32))
    a, b = Palettize(3).fit(weight, mask), Palettize(3).fit(changed, mask)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.codebook, b.codebook)


def test_few_values_are_exact():
    values = torch.tensor([0.1, -2.3456789, 7e-20, 0.0])
    weight = values[torch.randint(0, 4, (5, 3, 2, 2), generator=torch.Generator().manual_seed(0))]
    for runs in (1, 5):
        tensor = Palettize(bits=2, runs=runs).fit(weight)
        assert torch.equal(tensor.dequantize(), weight)


def test_rounding_of_centroids_costs_little():
    weight = draw_weight((20, 200))
    for bits in (2, 4, 6, 8):
        tensor = Palettize(bits).fit(weight)
        matrix = weight.reshape(-1).to(torch.float64)
        codes = tensor.codes.reshape(-1).to(torch.int64)
        count = torch.bincount(codes, minlength=tensor.codebook.shape[1])
        means = torch.bincount(codes, weights=matrix, minlength=count.numel()) / count.clamp(min=1)
        best = float(((matrix - means[codes]) ** 2).sum())
        assert squared_error(weight, tensor) <= best * 1.002
    assert torch.equal(Palettize(2).fit(weight).codebook.to(torch.bfloat16).float(), Palettize(2).fit(weight).codebook)


def test_important_weights_are_met_better():
    weight = draw_weight((1, 400))
    importance = torch.where(weight > 1, 100.0, 0.01)
    plain, weighted = Palettize(2).fit(weight), Palettize(2).fit(weight, weights=importance)
    large = weight > 1
    nothing = Palettize(2).fit(weight, weights=torch.zeros_like(weight))
    assert torch.equal(nothing.codes, plain.codes)
    assert (weighted.dequantize() - weight)[large].square().sum() < (plain.dequantize() - weight)[large].square().sum()


def test_weights_of_the_clustering_are_checked():
    weight = draw_weight((2, 3))
    with pytest.raises(MismatchError, match=r"shape \(2, 3\)"):
        Palettize(2).fit(weight, weights=torch.ones(3, 2))
    with pytest.raises(UsageError, match="0 or more"):
        Palettize(2).fit(weight, weights=-torch.ones(2, 3))
    weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        Palettize(2).fit(weight)


def test_a_shared_codebook_is_one_object():
    weights = [draw_weight((4, 9), seed=1), draw_weight((2, 3, 3, 3), seed=2), draw_weight((0,))]
    masks = [None, draw_weight((2, 3, 3, 3), seed=3) > 0, None]
    shared = Palettize(3).fit_shared(weights, masks)
    assert all(tensor.codebook is shared[0].codebook for tensor in shared)
    kept = torch.cat([weights[0].reshape(-1), weights[1][masks[1]]])
    together = Palettize(3).fit(kept)
    assert torch.equal(shared[0].codebook, together.codebook)
    for tensor, weight, mask in zip(shared, weights, masks, strict=True):
        chosen = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
        assert tensor.shape == weight.shape
        expected = [int((shared[0].codebook[0] - w).abs().argmin()) for w in weight[chosen]]
        assert np.abs(tensor.codes[chosen].numpy().astype(int) - expected).max(initial=0) <= 1
    assert Palettize(3).fit_shared([]) == []


def test_a_shared_codebook_checks_its_arguments():
    with pytest.raises(UsageError, match="runs=1"):
        Palettize(3, runs=2).fit_shared([draw_weight((2, 2))])
    with pytest.raises(UsageError, match="1 weights need as many masks, got 2"):
        Palettize(3).fit_shared([draw_weight((2, 2))], [None, None])
