import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import UnsupportedTypeError, UsageError
from tersor.matrices import NonFiniteError
from tersor.pruning.granularity import global_masks, mask_of
from tersor.pruning.patterns import parse_pattern
from tersor.pruning.selection import largest
from tests.pruning.twins import best, n_of_m_mask, unit_mask

SHAPES = [(), (0,), (7,), (3, 0), (1, 1), (5, 17), (6, 8), (3, 2, 3, 3), (4, 6, 1, 2)]
shapes = st.sampled_from(SHAPES)
densities = st.floats(0, 1, exclude_min=True)
seeds = st.integers(0, 2**31)


def draw_scores(shape, seed, ties=True, dtype=torch.float64):
    """Small whole numbers, so that sums are exact and ties abound; or normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@settings(max_examples=150, deadline=None)
@given(shapes, seeds, densities, st.sampled_from(["weight", "row", "column", "kernel", "1x4", "2x3", "4x1", "8x8"]))
def test_units_are_kept_by_their_mean_score(shape, seed, density, pattern):
    scores = draw_scores(shape, seed, ties=pattern in ("weight", "1x4", "4x1"))
    mask = mask_of(scores, density, pattern=pattern)
    assert mask.dtype == torch.bool and mask.shape == scores.shape
    assert np.array_equal(mask.numpy(), unit_mask(scores.numpy(), pattern, density))


@settings(max_examples=80, deadline=None)
@given(shapes, seeds, st.sampled_from([(2, 4), (1, 2), (3, 8), (1, 5)]), st.booleans())
def test_n_of_m_inputs_are_kept(shape, seed, pattern, ties):
    scores = draw_scores(shape, seed, ties)
    mask = mask_of(scores, None, pattern=f"{pattern[0]}:{pattern[1]}")
    assert np.array_equal(mask.numpy(), n_of_m_mask(scores.numpy(), *pattern))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(5, 17), (6, 8), (3, 2, 3, 3)]), seeds, densities)
def test_each_row_keeps_the_same_number(shape, seed, density):
    scores = draw_scores(shape, seed)
    mask = mask_of(scores, density, scope="channel").reshape(shape[0], -1)
    for row, kept in zip(scores.reshape(shape[0], -1), mask, strict=True):
        assert sorted(kept.nonzero()[:, 0].tolist()) == sorted(best(row.tolist(), round(density * row.numel())))


def test_parts_are_pruned_on_their_own():
    scores = draw_scores((8, 6), 3, ties=False) + torch.arange(4.0).repeat_interleave(2)[:, None] * 100
    mask = mask_of(scores, 0.5, parts=4)
    assert [int(part.sum()) for part in mask.reshape(4, -1)] == [6] * 4
    for part, kept in zip(scores.reshape(4, 2, 6), mask.reshape(4, 2, 6), strict=True):
        assert torch.equal(kept, mask_of(part, 0.5))
    gates = mask_of(scores, 0.5, pattern="row", parts=4)
    assert gates.reshape(4, 2, 6).any(2).sum(1).tolist() == [1] * 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(shapes, seeds), min_size=1, max_size=4), densities, st.sampled_from([0.0, 0.1, 0.6]))
def test_one_threshold_over_all_tensors(drawn, density, floor):
    scores = {str(i): draw_scores(shape, seed) for i, (shape, seed) in enumerate(drawn)}
    result = global_masks(scores, density, floor=floor)
    assert {name: mask.shape for name, mask in result.masks.items()} == {n: s.shape for n, s in scores.items()}
    kept = {name: int(mask.sum()) for name, mask in result.masks.items()}
    floors = {n: min(s.numel(), max(1, int(np.ceil(floor * s.numel())))) for n, s in scores.items()}
    total = sum(s.numel() for s in scores.values())
    assert sum(kept.values()) == max(round(density * total), sum(floors.values()))
    everything = [(-float(v), name, i) for name, s in scores.items() for i, v in enumerate(s.reshape(-1))]
    order = {
        (name, i): place for place, (_, name, i) in enumerate(sorted(everything, key=lambda e: (e[0], int(e[1]), e[2])))
    }
    for name, mask in result.masks.items():
        assert kept[name] >= floors[name]
        chosen = mask.reshape(-1).nonzero()[:, 0].tolist()
        assert sorted(chosen) == sorted(best(scores[name].reshape(-1).tolist(), kept[name]))
        earned = sum(order[name, i] < round(density * total) for i in range(mask.numel()))
        if kept[name] > floors[name]:
            assert name not in result.raised
        assert result.raised.get(name, 0) == max(0, floors[name] - earned)


def test_global_units_weigh_the_same_whatever_their_size():
    scores = {"small": torch.tensor([[1.0, 1.0], [9.0, 9.0]]), "wide": torch.tensor([[2.0] * 8, [8.0] * 8])}
    result = global_masks(scores, 0.5, pattern="row")
    assert result.masks["small"].tolist() == [[False] * 2, [True] * 2]
    assert result.masks["wide"].any(1).tolist() == [False, True] and result.raised == {}


def test_a_floor_says_which_layers_it_kept():
    scores = {"weak": torch.zeros(4, 5), "strong": torch.ones(4, 5)}
    result = global_masks(scores, 0.25, floor=0.2)
    assert {n: int(m.sum()) for n, m in result.masks.items()} == {"weak": 4, "strong": 6}
    assert result.raised == {"weak": 4}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_and_signed_zero_scores_are_ranked(dtype):
    row = np.array([[-1.0, 2.0, -0.0, 0.0, -5.0, 2.0]], dtype)
    assert largest(row, 3).tolist() == [[False, True, True, False, False, True]]
    assert largest(np.abs(row), 1).tolist() == [[False, False, False, False, True, False]]


@pytest.mark.parametrize("text", ["2:4", "1:2", "16x1", "row"])
def test_patterns_are_read(text):
    pattern = parse_pattern(text)
    assert pattern.density == {"2:4": 0.5, "1:2": 0.5}.get(text)


def test_errors():
    scores = torch.rand(6, 8)
    for pattern in ("4:2", "4:4", "0x4", "2x", "cube", None, 3, "2:04", "1x9999999"):
        with pytest.raises(UsageError, match="pattern"):
            mask_of(scores, 0.5, pattern=pattern)
    with pytest.raises(UsageError, match="no density"):
        mask_of(scores, 0.5, pattern="2:4")
    for density in (None, 0, 1.5, True, float("nan")):
        with pytest.raises(UsageError, match="density"):
            mask_of(scores, density)
    with pytest.raises(UsageError, match="over rows"):
        mask_of(scores, 0.5, pattern="2x2", scope="channel")
    with pytest.raises(UsageError, match="several tensors"):
        mask_of(scores, 0.5, scope="global")
    for parts in (4, 0, True):
        with pytest.raises(UsageError, match="6 rows"):
            mask_of(scores, 0.5, parts=parts)
    with pytest.raises(UsageError, match="floor"):
        global_masks({"a": scores}, 0.5, floor=2)
    with pytest.raises(UnsupportedTypeError, match="int64"):
        mask_of(scores.long(), 0.5)
    with pytest.raises(NonFiniteError, match=r"^fc: 1 of 48 scores"):
        global_masks(
            {"fc": scores.index_fill(0, torch.tensor([0]), 1).masked_fill(scores == scores.max(), torch.nan)}, 0.5
        )
