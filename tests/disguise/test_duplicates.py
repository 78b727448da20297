"""Equal tensors are stored once, and come back with memory of their own."""

import io

import pytest
import torch

import tersor
from tersor import Prune, Quantize, Recipe, Rule
from tersor.disguise import Duplicates
from tersor.quantization import Lossless
from tests.disguise import make
from tests.strategies import same_bits


def saved(compressed) -> bytes:
    file = io.BytesIO()
    tersor.save(compressed, file)
    return file.getvalue()


def test_equal_bits_are_found_and_near_misses_are_not():
    weight = make.random(100, 100)
    almost = weight.clone()
    almost[50, 1] += 1e-4  # between the places that are hashed
    tensors = {"a": weight, "b": almost, "c": weight.clone(), "d": weight.reshape(50, 200), "e": weight.double()}
    tensors |= {"f": almost.clone(), "g": torch.zeros(10), "h": torch.zeros(10), "i": weight.view(torch.int32)}
    seen = Duplicates()
    found = {name: seen.find(name, value, tensors.__getitem__) for name, value in tensors.items()}
    assert {name: source for name, source in found.items() if source} == {"c": "a", "f": "b"}


@pytest.mark.parametrize("threads", [1, 3])
def test_copies_are_stored_once_and_loaded_apart(threads):
    weight = make.random(100, 100)
    state = {"a": weight, "b": make.random(100, 100, seed=1), "c": weight.clone(), "d": weight.clone()}
    compressed = tersor.compress(state, lossless=True, threads=threads)
    assert [(entry.tied_to, entry.copied) for entry in compressed.entries] == [
        (None, False),
        (None, False),
        ("a", True),
        ("a", True),
    ]
    file = saved(compressed)
    alone = saved(tersor.compress({name: state[name] for name in "ab"}, lossless=True))
    assert len(file) < len(alone) + 20
    for values in (tersor.load(io.BytesIO(file), threads=threads), compressed.state_dict()):
        assert all(same_bits(values[name], value) for name, value in state.items())
        assert len({value.data_ptr() for value in values.values()}) == 4
    rows = {row.name: row for row in tersor.inspect(io.BytesIO(file)).tensors}
    assert (rows["c"].representation, rows["c"].tied_to, rows["c"].stored_bytes) == ("copy", "a", 0)


def test_what_is_treated_otherwise_is_no_copy():
    weight = make.random(64, 64)
    state = {"a": weight, "b": weight.clone(), "c": weight.clone(), "d": weight.clone()}
    rules = [Rule("*", Lossless()), Rule("a", Quantize(bits=4)), Rule("c", prune=Prune(density=0.5))]
    values = tersor.load(io.BytesIO(saved(tersor.compress(state, Recipe(rules)))))
    assert same_bits(values["b"], weight) and same_bits(values["d"], weight)
    assert not torch.equal(values["a"], weight) and not torch.equal(values["c"], weight)


def test_a_limit_on_memory_counts_copies():
    weight = make.random(100, 100)
    file = saved(tersor.compress({"a": weight, "b": weight.clone()}, lossless=True))
    with pytest.raises(tersor.TersorError, match="80000 bytes"):
        tersor.load(io.BytesIO(file), max_bytes=50_000)
