"""Manifests: JSON, composition, and hostile ones."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.errors import StructureError
from tersor.structure.cuts import Cut
from tersor.structure.edits import integers
from tersor.structure.manifest import Manifest, apply_manifest
from tests.structure import hand
from tests.structure.hand import same, snapshot

sizes = st.integers(2, 40)


@st.composite
def cuts(draw, size=None):
    size = draw(sizes) if size is None else size
    removed = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1))
    return Cut(size, tuple(sorted(removed)))


keys = st.tuples(st.text(min_size=1), st.text() | st.integers(0, 9))
manifests = st.builds(
    Manifest,
    st.lists(st.text(), max_size=3).map(tuple),
    st.dictionaries(st.tuples(st.text(), st.integers(0, 3)), cuts(), max_size=6),
    st.dictionaries(st.tuples(st.text(), keys), st.integers(1, 99), max_size=4),
)


@given(manifests)
def test_json_round_trip(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json().encode()) == manifest


@given(st.data())
def test_composition_is_one_after_the_other(data):
    first = data.draw(cuts().filter(lambda c: c.left > 1))
    second = data.draw(cuts(first.left))
    both = Manifest(cuts={("w", 0): first}).then(Manifest(cuts={("w", 0): second})).cuts["w", 0]
    values = torch.arange(first.size)
    assert torch.equal(values[both.kept()], values[first.kept()][second.kept()])


def test_what_was_dropped_needs_no_cuts():
    first = Manifest(("a.b",), {("a.w", 0): Cut(4, (1,)), ("c.w", 0): Cut(4, (1,))}, {("a", ("n",)): 3})
    assert first.then(Manifest(("a",))) == Manifest(("a",), {("c.w", 0): Cut(4, (1,))})


def good():
    return json.loads(Manifest((), {("stem.weight", 0): Cut(8, (1, 2, 3, 6))}, {}).to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"cuts": [{"of": 8, "removed": [3, 2], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [[0, 8]], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [8], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [-1], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [True], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 1 << 62, "removed": [[0, 1 << 61]], "in": {"stem.weight": [0]}}]},
        {"cuts": [{"of": 8, "removed": [1], "in": {"stem.weight": [0, 0]}}]},
        {"cuts": [{"of": 8, "removed": [1], "in": ["stem.weight"]}]},
        {"cuts": {"stem.weight": 1}},
        {"blocks": [1]},
        {"blocks": None},
        {"integers": [["stem", [], 1]]},
        {"integers": [["stem", ["out_channels"], "1"]]},
        {"integers": [["stem", ["out_channels"], 1.0]]},
        {"integers": [["stem", [["out_channels"]], 1]]},
    ],
)
def test_damaged_texts_are_refused(change):
    with pytest.raises(StructureError, match="damaged"):
        Manifest.from_json(json.dumps({**good(), **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 100000, b"\xff\xfe\x00", "1" * 5000, '{"format":1}'])
def test_other_texts_are_refused(text):
    with pytest.raises(StructureError, match="damaged"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest(cuts={("stem.weight", 0): Cut(9, (1,))}),
        Manifest(cuts={("stem.weight", 4): Cut(8, (1,))}),
        Manifest(cuts={("stem.weight", -4): Cut(8, (1,))}),
        Manifest(cuts={("stem.none", 0): Cut(8, (1,))}),
        Manifest(cuts={("stem.forward", 0): Cut(8, (1,))}),
        Manifest(cuts={("", 0): Cut(8, (1,))}),
        Manifest(cuts={("stem.weight", 0): Cut(8, (1,)), ("depthwise.weight", 0): Cut(9, (1,))}),
        Manifest(blocks=("",)),
        Manifest(blocks=("stem.weight",)),
        Manifest(blocks=("none",)),
        Manifest(blocks=("stem", "stem.x")),
        Manifest(blocks=("stem",), cuts={("stem.weight", 0): Cut(8, (1,))}),
        Manifest(integers={("", ("_modules", "stem")): 1}),
        Manifest(integers={("stem", ("training",)): 1}),
        Manifest(integers={("stem", ("_parameters",)): 1}),
        Manifest(integers={("stem", ("__class__", "x")): 1}),
        Manifest(integers={("stem", ("forward",)): 1}),
        Manifest(integers={("stem", ("out_channels",)): 9}),
        Manifest(integers={("stem", ("out_channels",)): 0}),
        Manifest(integers={("stem", ("kernel_size", 2)): 1}),
        Manifest(integers={("stem", ("kernel_size", -1)): 1}),
        Manifest(integers={("stem.none", ("out_channels",)): 1}),
    ],
)
def test_hostile_manifests_change_nothing(manifest):
    model = hand.Plain()
    before = snapshot(model)
    sound = Manifest(cuts={("point.weight", 0): Cut(6, (1,)), **manifest.cuts}, integers=manifest.integers)
    with pytest.raises(StructureError, match="not of the class that was shrunk"):
        apply_manifest(model, Manifest(manifest.blocks, sound.cuts, sound.integers))
    same(before, snapshot(model))


def test_ties_that_do_not_fit_are_refused():
    model = hand.Tied()
    before = snapshot(model)
    with pytest.raises(StructureError, match="tied"):
        apply_manifest(model, Manifest(cuts={("embedding.weight", 1): Cut(6, (1,)), ("head.weight", 1): Cut(6, (2,))}))
    same(before, snapshot(model))


def test_integers_are_found_in_containers_but_not_in_torch():
    module = nn.Linear(3, 4)
    module.flag, module.sizes, module.options, module.config = True, (3, (4, 5)), {"a": 6, 7: 8}, hand.Config()
    found = integers(module)
    assert found == {
        ("in_features",): 3,
        ("out_features",): 4,
        ("sizes", 0): 3,
        ("sizes", 1, 0): 4,
        ("sizes", 1, 1): 5,
        ("options", "a"): 6,
        ("config", "heads"): 4,
        ("config", "head_dim"): 3,
        ("config", "sizes", 0): 12,
        ("config", "sizes", 1): 12,
    }
