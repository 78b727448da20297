"""Checkpoints that are quantized already: their grids are kept, exactly, unless less is asked for."""

import io

import numpy as np
import pytest
import torch

import tersor
from tersor import Palettize, Prune, Quantize, Recipe, Rule, TersorWarning
from tersor.compress import compressed_entries
from tersor.interop import open_checkpoint
from tersor.quantization import FixedPoint
from tersor.tensors import Codebook, Uniform
from tests.interop.test_gguf import QUANTIZED, write
from tests.strategies import same_bits


def random_weights(*shape):
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    """A GGUF file: weights of two widths, a quantized vector and a plain one."""
    quantized = {
        "four.weight": (random_weights(256, 320), "Q4_1"),
        "eight.weight": (random_weights(64, 320), "Q8_0"),
        "vector": (random_weights(320), "Q5_0"),
    }
    return write(tmp_path / "model.gguf", {"norm": torch.ones(64)}, quantized)


def values_of(path):
    with open_checkpoint(path) as checkpoint:
        return {info.name: checkpoint.read(info.name) for info in checkpoint.info.tensors}


def file_and_values(compressed):
    file = io.BytesIO()
    tersor.save(compressed, file)
    file.seek(0)
    return len(file.getvalue()), tersor.load(file)


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_the_default_and_lossless_keep_the_grid(tmp_path, kind, options):
    path = write(tmp_path / "a.gguf", (), {"w": (random_weights(256, 512), kind)})
    size, values = file_and_values(tersor.compress(path, **options))
    assert same_bits(values["w"], values_of(path)["w"])
    assert size < path.stat().st_size


@pytest.mark.parametrize("threads", [1, 2])
def test_every_tensor_that_has_a_grid_keeps_it(source, threads):
    compressed = tersor.compress(source, threads=threads)
    tensors = {entry.name: entry.tensor for entry in compressed.entries}
    assert [tensors[name].bits for name in ("four.weight", "eight.weight", "vector")] == [4, 8, 5]
    assert tensors["four.weight"].offset is not None
    size, values = file_and_values(compressed)
    expected = values_of(source)
    assert list(values) == list(expected)
    assert all(same_bits(values[name], value) for name, value in expected.items())
    assert size < source.stat().st_size


def test_fewer_bits_than_the_grid_has_work_on_the_values(source):
    exact = values_of(source)
    kept, _ = file_and_values(tersor.compress(source))
    four, values = file_and_values(tersor.compress(source, bits=4))
    assert same_bits(values["four.weight"], exact["four.weight"])
    assert not torch.equal(values["eight.weight"], exact["eight.weight"])
    three, values = file_and_values(tersor.compress(source, bits=3))
    assert not torch.equal(values["four.weight"], exact["four.weight"])
    assert three < four < kept


def test_other_techniques_work_on_the_values(source):
    exact = values_of(source)
    for rule in (
        Rule("four.*", Palettize(bits=2)),
        Rule("four.*", Palettize(bits=2), shared=True),
        Rule("four.*", FixedPoint(bits=8)),
        Rule("four.*", Quantize(bits=8), Prune(density=0.5)),
    ):
        compressed = tersor.compress(source, Recipe([Rule("*", Quantize()), rule]))
        tensor = next(entry.tensor for entry in compressed.entries if entry.name == "four.weight")
        assert isinstance(tensor, Codebook if isinstance(rule.representation, Palettize) else Uniform)
        assert (tensor.mask is not None) == (rule.prune is not None)
        values = compressed.state_dict()
        assert not torch.equal(values["four.weight"], exact["four.weight"])
        assert same_bits(values["eight.weight"], exact["eight.weight"])


def test_pruning_nothing_keeps_the_grid(source):
    recipe = Recipe([Rule("*", Quantize(bits=8), Prune(density=1.0))])
    assert same_bits(tersor.compress(source, recipe).state_dict()["four.weight"], values_of(source)["four.weight"])


def test_steps_that_are_not_finite_stay_lossless_with_a_warning(tmp_path):
    path = write(tmp_path / "a.gguf", (), {"w": (np.ones((2, 256), np.float32), "Q8_0")})  # fills the file
    raw = bytearray(path.read_bytes())
    raw[-34:-32] = (0x7E00).to_bytes(2, "little")  # the scale of the last block: NaN
    path.write_bytes(raw)
    with pytest.warns(TersorWarning, match="'w' stays lossless"):
        values = tersor.compress(path).state_dict()
    assert same_bits(values["w"], values_of(path)["w"])


def test_values_are_not_read_where_the_grid_is_kept(source, monkeypatch):
    with open_checkpoint(source) as checkpoint:
        read = []
        monkeypatch.setattr(
            checkpoint, "read", lambda name, original=checkpoint.read: read.append(name) or original(name)
        )
        entries = list(compressed_entries(checkpoint, Recipe.lossless()))
    assert read == ["norm"]
    assert [entry.note for entry in entries] == [None, "Q4_1", "Q8_0", "Q5_0"]


def test_inspect_says_what_grid_it_is(source, tmp_path):
    path = tmp_path / "model.tsr"
    tersor.save(tersor.compress(source), path)
    rows = {row.name: row.representation for row in tersor.inspect(path).tensors}
    assert rows["four.weight"] == "uniform 4 bit offset per group of 32"
    assert rows["eight.weight"] == "uniform 8 bit symmetric per group of 32"
