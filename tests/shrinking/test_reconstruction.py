import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tersor.calibration import collect, output_error
from tersor.calibration.layout import Layout
from tersor.errors import CalibrationError, MismatchError, UsageError
from tersor.pruning import magnitude_mask, mask_of
from tersor.shrinking.reconstruction import polished, prune_layer, repair
from tests.calibration.test_damping import statistics_of

LAYERS = {
    "linear": (lambda: nn.Linear(40, 12), (300, 40)),
    "conv": (lambda: nn.Conv2d(6, 8, 3), (20, 6, 8, 8)),
    "grouped": (lambda: nn.Conv2d(12, 8, 3, groups=2), (20, 12, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), (20, 6, 8, 8)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def layer(name):
    """A layer with inputs that hang together, and its statistics."""
    make, shape = LAYERS[name]
    x = torch.randn(shape)
    x = x.flatten(1).cumsum(1).reshape(shape) / 5 + x
    model = nn.Sequential(make())
    return model[0].weight.detach(), collect(model, [x], positions=10**6)["0.weight"]


def error(weight, pruned, statistics):
    return float(output_error(weight, pruned, statistics).sum())


def textbook(weight, h, density, block, pattern=None):
    """SparseGPT on (R, N), one column at a time, with the inverse of H that elimination leaves."""
    inverse = torch.linalg.inv(h).numpy()
    u = weight.double().numpy().copy()
    keep = np.ones(u.shape, bool)
    rows, length = u.shape
    pivots, remaining = np.empty(length), inverse.copy()
    for j in range(length):
        pivots[j] = remaining[j, j]
        remaining -= np.outer(remaining[:, j], remaining[j]) / remaining[j, j]
    for j in range(length):
        if pattern is None and j % block == 0:
            end = min(j + block, length)
            scores = (u[:, j:end] ** 2 / pivots[j:end]).reshape(-1)
            count = round(density * rows * end) - round(density * rows * j)
            chosen = np.zeros(scores.size, bool)
            chosen[np.argsort(-scores, kind="stable")[:count]] = True
            keep[:, j:end] = chosen.reshape(rows, -1)
        if pattern is not None and j % pattern[1] == 0:
            end = min(j + pattern[1], length)
            scores = u[:, j:end] ** 2 / pivots[j:end]
            keep[:, j:end] = False
            for row, order in enumerate(np.argsort(-scores, axis=1, kind="stable")[:, : pattern[0]]):
                keep[row, j + order] = True
        gone = np.where(keep[:, j], 0, u[:, j])
        u -= np.outer(gone / inverse[j, j], inverse[j])
        u[:, j] = np.where(keep[:, j], u[:, j], 0)
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return u, keep


@pytest.mark.parametrize(("options", "pattern"), [({"density": 0.4}, None), ({"pattern": "2:4"}, (2, 4))])
def test_weights_are_those_of_the_textbook(options, pattern):
    weight = torch.randn(5, 30)
    statistics = statistics_of(torch.randn(1, 200, 30).cumsum(2) / 4 + torch.randn(1, 200, 30), rows=5)
    h = statistics.moment[0].double() / statistics.samples
    h += 0.01 * h.diagonal().mean() * torch.eye(30)
    expected, keep = textbook(weight, h, options.get("density"), 8, pattern)
    got = prune_layer(weight, statistics, **options, block=8, refine=0, polish=0)
    assert np.array_equal(got.mask.numpy(), keep)
    np.testing.assert_allclose(got.weight.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("block", [16, 10**6])
def test_outputs_change_less_than_by_magnitude(name, density, block):
    weight, statistics = layer(name)
    paper = prune_layer(weight, statistics, density, block=block, refine=0, polish=0)
    better = prune_layer(weight, statistics, density, block=block, refine=0)
    best = prune_layer(weight, statistics, density, block=block)
    for pruned in (paper, better, best):
        assert int(pruned.mask.sum()) == round(density * weight.numel())
        assert pruned.weight.shape == weight.shape and pruned.weight.dtype == weight.dtype
        assert (pruned.weight[~pruned.mask] == 0).all()
    by_magnitude = error(weight, weight * magnitude_mask(weight, density=density), statistics)
    limit = 0.85 if name == "transposed" else 0.7  # its inputs are mostly zeros, which hang together less
    assert error(weight, paper.weight, statistics) <= limit * by_magnitude
    assert error(weight, better.weight, statistics) <= (1 + 1e-9) * error(weight, paper.weight, statistics)
    assert error(weight, best.weight, statistics) <= 1.02 * error(weight, better.weight, statistics)
    if density == 1:
        torch.testing.assert_close(paper.weight, weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("pattern", ["2:4", "1:3"])
def test_patterns_hold_along_the_inputs_of_any_layout(name, pattern):
    weight, statistics = layer(name)
    kept, of = map(int, pattern.split(":"))
    pruned = prune_layer(weight, statistics, pattern=pattern, block=8)
    groups, rows, length = statistics.layout.shape(weight.shape)
    kernel = weight.shape[2:].numel()
    mask = statistics.layout.matrices(pruned.mask).reshape(groups, rows, length // kernel, kernel)
    for begin in range(0, length // kernel, of):
        part = mask[:, :, begin : begin + of]
        assert (part.sum(2) == min(kept, part.shape[2])).all()
    if not statistics.layout.transposed:
        assert torch.equal(pruned.mask, mask_of(pruned.mask.float(), None, pattern=pattern))
        by_magnitude = weight * mask_of(weight.abs(), None, pattern=pattern)
        assert error(weight, pruned.weight, statistics) < 0.7 * error(weight, by_magnitude, statistics)


def test_refined_masks_are_near_the_best_of_all():
    """Against every mask there is, with its least squares, on rows of eight weights."""
    ours, paper, best = 0.0, 0.0, 0.0
    for _ in range(20):
        weight, x = torch.randn(1, 8), torch.randn(1, 100, 8).cumsum(2)
        statistics = statistics_of(x, rows=1)
        ours += error(weight, prune_layer(weight, statistics, 0.5, damping=1e-6).weight, statistics)
        paper += error(weight, prune_layer(weight, statistics, 0.5, damping=1e-6, refine=0).weight, statistics)
        masks = torch.zeros(1, 70, 8, dtype=torch.bool)
        for row, places in enumerate(itertools.combinations(range(8), 4)):
            masks[0, row, list(places)] = True
        target = weight.double().expand(1, 70, 8)
        every = statistics_of(x, rows=70)
        values = polished(target, target * masks, masks, every, 20, 1e-6)
        best += float(output_error(target, values, every).min())
    assert best <= ours < 1.5 * best < 1.5 * paper and ours < paper


def test_polishing_ends_at_the_least_squares():
    weight = torch.randn(1, 4, 12, dtype=torch.float64)
    statistics = statistics_of(torch.randn(1, 60, 12).cumsum(2), rows=4)
    mask = torch.rand(1, 4, 12) < 0.5
    h = statistics.moment[0].double() / statistics.samples
    h += 0.01 * h.diagonal().mean() * torch.eye(12)
    got = polished(weight, weight * mask, mask, statistics, 60)
    for row, kept, result in zip(weight[0], mask[0], got[0], strict=True):
        expected = torch.zeros(12, dtype=torch.float64)
        if kept.any():
            expected[kept] = torch.linalg.solve(h[kept][:, kept], (h @ row)[kept])
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_a_mask_from_elsewhere_is_repaired(name):
    weight, statistics = layer(name)
    mask = mask_of(weight.abs(), 0.5, pattern="row") if name == "linear" else magnitude_mask(weight, density=0.4)
    better = repair(weight, mask, statistics)
    assert (better[~mask] == 0).all() and better.dtype == weight.dtype
    before, after = (error(weight, w, statistics) for w in (weight * mask, better))
    # Rows are good for themselves: where whole ones go, nobody can make up for them.
    assert after == pytest.approx(before) if name == "linear" else after < 0.7 * before


def test_rows_whose_errors_cost_more_keep_more():
    weight, x = torch.randn(2, 40), torch.randn(1, 200, 40)
    statistics = statistics_of(x, rows=2)
    gradient = torch.tensor([[1.0, 100.0]], dtype=torch.float64)
    weighted = type(statistics)(*(getattr(statistics, f) for f in list(vars(statistics))[:-1]), gradient)
    kept = prune_layer(weight, weighted, 0.4).mask.sum(1)
    assert kept[1] > 1.5 * kept[0]


def test_embeddings_are_masked_by_how_often_tokens_come():
    model = nn.Sequential(nn.Embedding(6, 4))
    statistics = collect(model, [torch.tensor([[0, 0, 0, 1, 2, 3, 4]])])["0.weight"]
    weight = model[0].weight.detach()
    pruned = prune_layer(weight, statistics, 0.5)
    expected = mask_of(weight.double().square() * statistics.moment[0][:, None], 0.5)
    assert int(pruned.mask.sum()) == 12 and torch.equal(pruned.mask.sum(1), expected.sum(1))
    assert torch.equal(pruned.weight, weight * pruned.mask)
    assert torch.equal(repair(weight, pruned.mask, statistics), pruned.weight)


def test_inputs_that_were_never_seen_are_pruned_first():
    x = torch.randn(1, 50, 10)
    x[..., 4:7] = 0
    pruned = prune_layer(torch.randn(3, 10), statistics_of(x, rows=3), 0.4)
    assert not pruned.mask[:, 4:7].any() and torch.isfinite(pruned.weight).all()
    nothing = prune_layer(torch.randn(3, 10), statistics_of(torch.zeros(1, 5, 10), rows=3), 0.5)
    assert int(nothing.mask.sum()) == 15 and torch.isfinite(nothing.weight).all()


def test_what_does_not_fit_is_refused():
    weight, statistics = torch.randn(3, 8), statistics_of(torch.randn(1, 20, 8), rows=3)
    with pytest.raises(MismatchError, match=r"\(3, 8\)"):
        prune_layer(weight.T, statistics, 0.5)
    for options, words in [
        ({"density": 0}, "density"),
        ({}, "density"),
        ({"density": 0.5, "pattern": "2:4"}, "by itself"),
        ({"density": 0.5, "pattern": "row"}, "repair"),
        ({"density": 0.5, "block": 0}, "block"),
        ({"density": 0.5, "polish": -1}, "polish"),
        ({"density": 0.5, "refine": -1}, "refine"),
    ]:
        with pytest.raises(UsageError, match=words):
            prune_layer(weight, statistics, **options)
    with pytest.raises(CalibrationError, match="NaN"):
        prune_layer(weight * float("nan"), statistics, 0.5)
    for mask in (torch.ones(8, 3, dtype=torch.bool), torch.ones(3, 8)):
        with pytest.raises(UsageError, match="mask must be bool"):
            repair(weight, mask, statistics)


def test_layouts_of_grouped_and_transposed_layers_are_as_expected():
    assert layer("transposed")[1].layout == Layout(transposed=True, groups=2)
    assert layer("grouped")[1].layout == Layout(groups=2)
