"""Which units go: counts, floors and targets as pure functions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.pruning import PruneChannels
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.selection import eligible, numbers_left, select, share_that_meets
from tersor.structure.groups import Group, Member


def group(name, units, normalised=False, positions=1):
    indices = tuple(tuple(range(positions * u, positions * (u + 1))) for u in range(units))
    out, into = Member(name, 0, indices, "output"), Member(f"next.{name}", 1, indices, "input")
    return Group(name, "channel", units, (out, into), normalised)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
    st.sampled_from(["group", "global"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_counts_and_order(sizes, share, scope, min_units, round_to, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = [group(f"layer{number}", size) for number, size in enumerate(sizes)]
    scores = {g.name: torch.randint(5, (g.units,), generator=generator).double() for g in groups}
    options = PruneChannels(ratio=0.5, scope=scope, min_units=min_units, round_to=round_to)
    found = select(groups, scores, share, options)
    for g in groups:
        gone = set(found.removed.get(g.name, []))
        left = g.units - len(gone)
        assert left >= min(min_units, g.units) and (left % round_to == 0 or left == g.units)
        kept = [unit for unit in range(g.units) if unit not in gone]
        own = scores[g.name]
        assert all((own[a], -a) > (own[b], -b) for a in kept for b in gone)
        if scope == "group" and min_units == round_to == 1:
            assert left == max(round(share * g.units), 1)
            assert (g.name in found.floors) == (round(share * g.units) == 0)
    if scope == "global" and min_units == round_to == 1 and not found.floors:
        assert sum(sizes) - sum(map(len, found.removed.values())) == round(share * sum(sizes))


def test_shares_are_of_what_there_was_before():
    found = select([group("a", 6)], {"a": torch.arange(6.0)}, 0.4, PruneChannels(ratio=0.5), {"a": 10})
    assert found.removed == {"a": [0, 1]}


def test_patterns_choose_groups():
    groups = [group("features.0", 4), group("features.1", 4, normalised=True), group("head", 4)]

    def names(**options):
        return [g.name for g in eligible(groups, PruneChannels(ratio=0.5, **options))]

    assert names() == ["features.0", "head"]
    assert names(normalised=True) == ["features.0", "features.1", "head"]
    assert names(match="features.*") == ["features.0"]
    assert names(keep="next.head") == ["features.0"] and names(keep=("h*", "f*")) == []


def test_numbers_left_of_two_dimensions():
    groups = [group("a", 3, positions=2), group("b", 4)]
    shapes = {"a": (6, 5), "next.a": (7, 6), "b": (4, 2), "next.b": (3, 4), "other": (9,)}
    left = numbers_left(shapes, groups, {"a": [0, 2], "b": [1]})
    assert left == {"a": 2 * 5, "next.a": 7 * 2, "b": 3 * 2, "next.b": 3 * 3, "other": 9}


@given(st.integers(1, 50), st.floats(0, 60))
def test_the_largest_share_that_meets_a_target(units, target):
    share = share_that_meets(lambda s: max(round(s * units), 1), target)
    assert max(round(share * units), 1) <= max(target, 1)
    assert share == 1.0 or round(min(share + 1 / units, 1.0) * units) + 1 > target


@pytest.mark.parametrize(
    "config",
    [PruneChannels(macs=0.5, keep=("a", "b")), Iterative(steps=3, macs=0.5, max_drop=1.0), LayerByLayer(max_drop=0.5)],
)
def test_options_travel_as_dictionaries(config):
    assert type(config).from_dict(config.to_dict()) == config


def test_shares_may_be_the_same_multiple_of_a_part_everywhere():
    groups = [group("heads", 6), group("stream", 24), group("odd", 7)]
    scores = {each.name: torch.arange(float(each.units)) for each in groups}
    for share, left in ((0.7, (5, 20, 6)), (0.5, (3, 12, 4)), (0.01, (1, 4, 2))):
        found = select(groups, scores, share, PruneChannels(ratio=0.5), parts=6)
        assert tuple(each.units - len(found.removed[each.name]) for each in groups) == left
