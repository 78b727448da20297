"""`tersor diagnose`."""

import json
import sys

import pytest
import torch

from tersor.cli import main

CODE = """
import torch
from torch import nn

def net():
    print("user code talks")
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def samples():
    return [torch.randn(16, 8) for _ in range(2)]

def metric(model):
    return -float(model[2].weight.abs().sum())
"""
NET = ["--model", "code_for_tests:net", "--calibration", "code_for_tests:samples"]


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    (tmp_path / "code_for_tests.py").write_text(CODE)
    torch.manual_seed(0)
    shapes = {"0.weight": (16, 8), "0.bias": (16,), "2.weight": (4, 16), "2.bias": (4,)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("code_for_tests", None)


def test_a_table_and_words(capsys):
    assert main(["diagnose", "net.pt", *NET]) == 0
    out, err = capsys.readouterr()
    assert "0.weight" in out
    assert "2.weight" in out
    assert "user code talks" not in out
    assert "user code talks" in err


def test_json_with_measured_drops(capsys):
    command = ["diagnose", "net.pt", *NET, "--seed", "3", "--json"]
    assert main([*command, "--evaluate", "code_for_tests:metric", "--measure"]) == 0
    found = json.loads(capsys.readouterr().out)
    drops = {each["name"]: [c["drop"] for c in each["candidates"] if c["drop"] is not None] for each in found["layers"]}
    assert drops["0.weight"] == [0.0]
    assert drops["2.weight"][0] != 0
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert main([*command[:-3], "--seed", "4", "--json"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "diagnose needs --model"),
        (NET[:2], 2, "diagnose needs --calibration"),
        ([*NET, "--measure"], 2, "--measure needs --evaluate"),
        (["--model", "code_for_tests:missing", *NET[2:]], 2, "has no missing"),
        (["--model", "torch.nn:Identity", *NET[2:]], 6, "unexpected in the file"),
    ],
)
def test_errors(capsys, options, code, says):
    assert main(["diagnose", "net.pt", *options]) == code
    assert says in capsys.readouterr().err
