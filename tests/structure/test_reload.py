"""Shrunk networks through state_dicts and files, back into their original class."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersor
from tersor.errors import CorruptFileError, MismatchError, StructureError
from tersor.interop import open_checkpoint
from tersor.matching import load_weights
from tersor.restore import decompress_file
from tersor.structure.carried import manifest_of, rebuild
from tersor.structure.manifest import NAME
from tersor.structure.surgery import shrink
from tersor.structure.trace import trace
from tests.structure import hand
from tests.structure.hand import same, snapshot
from tests.structure.test_surgery import CASES, made


def shrunk(case):
    model, groups, selection, x = made(case)
    return shrink(model, selection, groups, trace(model, (x,))), x


def written(model, **options):
    file = io.BytesIO()
    options = options or {"lossless": True}
    tersor.save(tersor.compress(model, **options), file)
    file.seek(0)
    return file


@pytest.mark.parametrize("case", CASES)
def test_a_file_rebuilds_the_original_class(case):
    small, x = shrunk(case)
    torch.manual_seed(99)
    fresh = CASES[case][0]().eval()
    tersor.load(written(small), into=fresh)
    assert torch.equal(fresh(x), small(x))
    assert manifest_of(fresh) == manifest_of(small)
    assert [type(m) for m in fresh.modules()] == [type(m) for m in small.modules()]
    again = CASES[case][0]().eval()
    tersor.load(written(fresh), into=again)  # what was rebuilt can be written again
    assert torch.equal(again(x), small(x))


def test_a_shrunk_network_takes_its_own_file():
    small, x = shrunk("plain")
    other = copy.deepcopy(small)
    with torch.no_grad():
        other.stem.weight.zero_()
    tersor.load(written(small), into=other)
    assert torch.equal(other(x), small(x))


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_rebuilds_the_original_class(case, tmp_path):
    small, x = shrunk(case)
    torch.save(copy.deepcopy(small).state_dict(), tmp_path / "small.pt")
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    fresh = CASES[case][0]().eval()
    assert rebuild(fresh, state) is fresh
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), small(x))


def test_compressed_checkpoints_rebuild_the_original_class(tmp_path):
    small, x = shrunk("plain")
    torch.save({"epoch": 3, "model": small.state_dict()}, tmp_path / "small.pt")
    save_file(small.state_dict(), tmp_path / "small.safetensors", {NAME: manifest_of(small).to_json()})
    for source in (tmp_path / "small.pt", tmp_path / "small.safetensors", small.state_dict()):
        fresh = hand.Plain().eval()
        tersor.load(written(source), into=fresh)
        assert torch.equal(fresh(x), small(x))


def test_a_checkpoint_made_from_the_file_keeps_the_structure(tmp_path):
    small, x = shrunk("plain")
    decompress_file(written(small), tmp_path / "small.safetensors")
    fresh = hand.Plain().eval()
    with open_checkpoint(tmp_path / "small.safetensors") as checkpoint:
        load_weights(checkpoint, fresh)
        assert torch.equal(fresh(x), small(x)) and manifest_of(fresh) == manifest_of(small)
        other = nn.Sequential(nn.Linear(2, 2))
        before = snapshot(other)
        with pytest.raises(StructureError):
            load_weights(checkpoint, other)
        same(before, snapshot(other))


def test_a_torch_file_made_from_the_file_keeps_the_structure(tmp_path):
    small, x = shrunk("plain")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(small.state_dict(), folder / "model.safetensors", {"format": "pt", NAME: manifest_of(small).to_json()})
    for number, source in enumerate((small, small.state_dict(), folder)):
        direct = hand.Plain().eval()
        tersor.load(written(source), into=direct)
        decompress_file(written(source), tmp_path / f"{number}.pt", "torch")
        state = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        fresh = hand.Plain().eval()
        rebuild(fresh, state).load_state_dict(state)
        assert torch.equal(fresh(x), small(x)) and torch.equal(direct(x), small(x))


def test_calibrated_compression_keeps_the_structure():
    small, x = shrunk("plain")
    compressed = tersor.compress(small, bits=12, calibration=[torch.randn(16, 3, 8, 8)])
    file = io.BytesIO()
    tersor.save(compressed, file)
    assert abs(compressed.curve.chosen.bytes - len(file.getvalue())) < 8
    fresh = hand.Plain().eval()
    tersor.load(io.BytesIO(file.getvalue()), into=fresh)
    torch.testing.assert_close(fresh(x), small(x), atol=0.1, rtol=0.1)
    assert manifest_of(fresh) == manifest_of(small)


def test_inspect_says_that_it_is_shrunk():
    small, _ = shrunk("plain")
    assert tersor.inspect(written(small)).structure == "10 tensors smaller"
    assert tersor.inspect(written(hand.Plain())).structure is None


def test_shrunk_twice_is_one_manifest():
    model, groups, selection, x = made("attention")
    once = shrink(model, selection, groups, trace(model, (x,)))
    thirds = tuple(tuple(start + 3 * u + d for start in (0, 9, 18) for d in range(3)) for u in range(3))
    members = [
        hand.Member("layers.0.qkv.weight", 0, thirds, "output"),
        hand.Member("layers.0.qkv.bias", 0, thirds, "vector"),
        hand.member("layers.0.out.weight", 1, 3, "input", of=3),
    ]
    second = hand.groups(hand.group("layers.0.qkv.weight", "head", 3, members))
    twice = shrink(once, {"layers.0.qkv.weight": [0]}, second, trace(once, (x,)))
    # Head 2 went first, then the first one of what was left.
    assert manifest_of(twice).cuts["layers.0.out.weight", 1].removed == (0, 1, 2, 6, 7, 8)
    fresh = hand.Transformer().eval()
    tersor.load(written(twice), into=fresh)
    assert torch.equal(fresh(x), twice(x))
    assert fresh.layers[0].config.heads == 2
    with pytest.raises(MismatchError):
        tersor.load(written(twice), into=once)


def test_parts_of_a_larger_network_are_found():
    small, x = shrunk("plain")
    whole = nn.Sequential(small, nn.Linear(5, 2)).eval()
    fresh = nn.Sequential(hand.Plain(), nn.Linear(5, 2)).eval()
    tersor.load(written(whole), into=fresh)
    assert torch.equal(fresh(x), whole(x))


def test_another_class_is_refused_and_unchanged():
    small, _ = shrunk("plain")
    for other in (hand.Recurrent(), nn.Sequential(nn.Linear(2, 2))):
        before = snapshot(other)
        with pytest.raises((StructureError, MismatchError)):
            tersor.load(written(small), into=other)
        same(before, snapshot(other))
    wide = hand.Plain()
    wide.extra = nn.Linear(2, 2)  # the structure fits, but the file has not all tensors
    before = snapshot(wide)
    with pytest.raises(MismatchError, match=r"extra.weight"):
        tersor.load(written(small), into=wide)
    same(before, snapshot(wide))
    assert not manifest_of(wide)


def test_damaged_values_leave_the_class_as_it_was():
    small, _ = shrunk("plain")
    raw = bytearray(written(small).getvalue())
    raw[40] ^= 1
    fresh = hand.Plain()
    before = snapshot(fresh)
    with pytest.raises(CorruptFileError):
        tersor.load(io.BytesIO(raw), into=fresh)
    same(before, snapshot(fresh))


def test_a_plain_state_dict_says_nothing():
    with pytest.raises(StructureError, match="says nothing of a structure"):
        rebuild(hand.Plain(), hand.Plain().state_dict())
