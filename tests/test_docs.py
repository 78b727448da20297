"""The documentation does what it says: its commands and Python blocks are run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tersor import Recipe
from tersor.quantization import REPRESENTATIONS
from tersor.simulation import ACTIVATIONS, DEFAULTS, TRAININGS

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the model and the recipe that the pages speak of, and `tersor` on the path."""
    torch.manual_seed(0)
    names = {"encoder.0.weight": (64, 32), "encoder.0.bias": (64,), "head.weight": (10, 64), "head.bias": (10,)}
    save_file({name: torch.randn(shape) for name, shape in names.items()}, tmp_path / "model.safetensors")
    (tmp_path / "recipe.yaml").write_text(blocks("docs/guide.md", "yaml")[0])
    command = tmp_path / "bin" / "tersor"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tersor "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["docs/guide.md", "README.md"])
def test_console_blocks(folder, page):
    commands = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    # `diff` tells by its exit code that a lossy copy differs.
    commands = [f"{command} || test $? = 6" if "tersor diff" in command else command for command in commands]
    commands = [command for command in commands if not command.startswith(("make", "git", "cd", "pip"))]
    assert commands
    done = subprocess.run(["sh", "-ec", "\n".join(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PAGES = (
    "docs/guide.md",
    "docs/calibration.md",
    "docs/pruning.md",
    "docs/training.md",
    "docs/rate-aware.md",
    "docs/distillation.md",
    "docs/deep-compression.md",
    "docs/int8.md",
    "docs/quantization-aware.md",
    "docs/clustering.md",
    "docs/binary.md",
    "README.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(folder, page):
    code = "\n".join(blocks(page, "python"))
    assert code
    exec(compile(code, page, "exec"), {"__name__": "docs"})  # our own documentation, not a user's input


@pytest.mark.parametrize("page", ["docs/training.md"])
def test_recipes(folder, page):
    for block in blocks(page, "yaml"):
        (folder / "recipe.yaml").write_text(block)
        assert Recipe.load(folder / "recipe.yaml").rules


def test_the_table_of_trainings_is_that_of_the_registry():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\*\*)?`(\w+)`(?:\*\*)? \| `(\w+)` \| `?(\w+)`? \| (yes|no) \|$", text, re.MULTILINE)
    assert {key: name for _, name, key, _, _ in rows} == {
        key: kind.__name__ for key, kind in {**TRAININGS, **ACTIVATIONS}.items()
    }
    weight = torch.linspace(-1, 1, 32).reshape(4, 8)
    for default, _, key, of, own in rows:
        if key in ACTIVATIONS:
            part, is_default = ACTIVATIONS[key]().simulate(torch.nn.Linear(8, 4)), False
        else:
            kind = REPRESENTATIONS[of]
            options = {"granularity": "tensor"} if key == "rate_aware" else {"bits": 2} if of == "palettize" else {}
            part, is_default = TRAININGS[key]().simulate(weight, kind(**options), None), DEFAULTS[kind].name == key
        assert any(p.requires_grad for p in part.parameters()) == (own == "yes"), key
        assert bool(default) == is_default, key


def test_tutorial(folder):
    """The network of the page is trained and compressed by the page's commands, then by its Python."""
    pytest.importorskip("sklearn")
    network, code = blocks("docs/tutorial.md", "python")
    (folder / "network.py").write_text(network)
    commands = [line[2:] for b in blocks("docs/tutorial.md", "console") for line in b.splitlines()]
    (folder / "bin" / "python").symlink_to(sys.executable)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(["sh", "-ec", "\n".join(commands)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    curve = json.loads((folder / "curve.json").read_text())
    assert curve["reference"] >= 95 and curve["reference"] - curve["chosen"]["metric"] <= 0.5
    before = (folder / "resnet20.safetensors").stat().st_size
    assert (folder / "resnet20.tsr").stat().st_size == curve["chosen"]["bytes"] < before / 40
    assert 19_800 <= (folder / "small.tsr").stat().st_size <= 20_000
    assert not (folder / "resnet20.tsr.work").exists()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert 29_700 <= (folder / "resnet20-30k.tsr").stat().st_size <= 30_000
    float_accuracy, restored = map(float, done.stdout.split()[-2:])
    assert restored >= float_accuracy - 1
