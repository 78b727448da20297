"""What can be saved, and what is said of the rest."""

import pytest
import torch
from torch import nn

import tersor
from tersor.errors import UsageError


def test_what_is_no_compressed_model(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    session = tersor.prepare(model, tersor.Rule("*", prune=tersor.Prune(density=0.5)))
    integers = tersor.quantize_int8(nn.Sequential(nn.Linear(4, 3)), [torch.randn(4, 4)])
    path = tmp_path / "model.tsr"
    for wrong, says in (
        (session, r"got Session: give session\.finalize\(\)"),
        (model, r"got Sequential: give tersor\.compress\(model\)"),
        ({"w": torch.zeros(2)}, r"got dict: give tersor\.compress\(model\)"),
        (integers, r"got Integers: give its \.compressed\(\)"),
        (str(path), "got str: the model comes first"),
        (None, "got NoneType$"),
    ):
        with pytest.raises(UsageError, match=f"save takes a CompressedModel, {says}"):
            tersor.save(wrong, path)
    assert not path.exists()
    for wrong in (5, None):
        with pytest.raises(UsageError, match="save: path must be a path, or a file"):
            tersor.save(tersor.compress(model[0]), wrong)


def test_threads_are_checked_with_nothing_written(tmp_path):
    path = tmp_path / "model.tsr"
    tersor.save(tersor.compress({"w": torch.zeros(2)}), path)
    before = path.read_bytes()
    for threads in (float("nan"), "x", 1.5, True):
        with pytest.raises(UsageError, match="threads is"):
            tersor.save(tersor.compress({"w": torch.ones(9)}), path, force=True, threads=threads)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.tsr"]
