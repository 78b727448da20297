import json
import zlib

import pytest
import torch

from tersor.errors import InputError
from tersor.interop.torch_structure import Leaf, flatten, unflatten

from .helpers import assert_same_nest


def structure(root, names=("a", "b")):
    fingerprint = [len(names), zlib.crc32(json.dumps(list(names)).encode())]
    return json.dumps({"tensors": fingerprint, "root": root}).encode()


def test_state_dict_is_one_run():
    tensors, text = flatten({f"module.layer{i}.weight": torch.zeros(1) for i in range(100)}, "x.pt")
    assert list(tensors)[:2] == ["layer0.weight", "layer1.weight"]
    assert json.loads(text)["root"] == {"dict": [{"run": [0, 100, "module."]}]}
    assert len(text) < 100
    rebuilt = unflatten(text, list(tensors), "x.pt")
    assert rebuilt["module.layer7.weight"] == Leaf(7, False, False)
    assert list(rebuilt) == [f"module.{name}" for name in tensors]


def test_nest_with_leaves():
    root = {"model": {"w": torch.nn.Parameter(torch.ones(1))}, "rest": [torch.zeros(2), {"k": (1, None)}]}
    tensors, text = flatten(root, "x.pt")
    assert list(tensors) == ["w", "rest.0"]
    expected = {"model": {"w": Leaf(0, True, True)}, "rest": [Leaf(1, False, False), {"k": (1, None)}]}
    assert_same_nest(unflatten(text, ["w", "rest.0"], "x.pt"), expected)


@pytest.mark.parametrize("names", [["a"], ["b", "a"], ["a", "c"], ["a", "b", "c"], []])
def test_structure_of_other_tensors(names):
    assert unflatten(structure({"dict": [{"run": [0, 2, ""]}]}), names, "here") is None


@pytest.mark.parametrize(
    "root",
    [
        [{"tensor": [0, False]}, {"tensor": [0, False]}],
        {"tensor": [2, False]},
        {"tensor": [-1, False]},
        {"tensor": ["a", False]},
        {"tensor": [0]},
        {"dict": [{"run": [0, 3, ""]}]},
        {"dict": [{"run": [-1, 1, ""]}]},
        {"dict": [{"run": [0, 10**18, ""]}]},
        {"dict": [{"walk": [0, 1, ""]}]},
        {"dict": [[[1], 2]]},
        {"dict": 3},
        {"set": [[1]]},
        {"counter": [1]},
        {"bytes": "?"},
        {"size": ["x"]},
        {"complex": ["x"]},
        {"dtype": "load"},
        {"dtype": "nothing"},
        {"device": "nowhere"},
        {"module": "os"},
        {},
    ],
    ids=str,
)
def test_hostile_structure(root):
    with pytest.raises(InputError, match="here: the structure of the torch file is damaged"):
        unflatten(structure(root), ["a", "b"], "here")


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"{}", b'{"tensors": ' + b"[" * 10**5])
def test_hostile_text(text):
    with pytest.raises(InputError, match="here"):
        unflatten(text, ["a"], "here")


def test_structure_too_deep():
    text = structure("root").replace(b'"root"}', b'{"tuple":[' * 5000 + b"]}" * 5000 + b"}")
    with pytest.raises(InputError, match="here"):
        unflatten(text, ["a", "b"], "here")
