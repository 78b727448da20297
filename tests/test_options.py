import copy
import inspect
import json
import pickle
from dataclasses import replace

import pytest

from tersor.errors import UsageError
from tersor.pruning import Prune, PruneChannels
from tersor.quantization import (
    REPRESENTATIONS,
    Binarize,
    Cast,
    FixedPoint,
    Lossless,
    Palettize,
    Quantize,
    Ternarize,
)

CONFIGS = [
    Lossless(),
    Cast(),
    Cast("float8_e5m2"),
    Quantize(),
    Quantize(bits=3, symmetric=False, granularity="group", group_size=64),
    FixedPoint(bits=12, fraction=-3, granularity="channel"),
    Palettize(bits=2, init="density", runs=4),
    Binarize("tensor"),
    Ternarize(granularity="tensor", rule="twn"),
    Prune(density=0.25, scope="channel"),
    Prune(threshold=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_dictionary_round_trip_through_json(config):
    values = json.loads(json.dumps(config.to_dict()))
    assert values["name"] == type(config).name
    assert type(config).from_dict(values) == config
    values.pop("name")
    assert type(config).from_dict(values) == config


def test_every_representation_is_registered_under_its_name():
    assert list(REPRESENTATIONS) == ["lossless", "float", "uniform", "fixed", "palettize", "binary", "ternary"]
    for name, config in REPRESENTATIONS.items():
        assert config.name == name


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Quantize(bits=0), ["uniform", "bits", "1 to 16", "0"]),
        (lambda: Quantize(bits=17), ["bits", "17"]),
        (lambda: Quantize(bits=True), ["bits", "True"]),
        (lambda: Quantize(bits="8"), ["bits", "'8'"]),
        (lambda: Quantize(symmetric=1), ["symmetric", "true or false"]),
        (lambda: Quantize(granularity="row"), ["granularity", "channel", "tensor", "group", "'row'"]),
        (lambda: Quantize(granularity=["tensor"]), ["granularity", "tensor"]),
        (lambda: Quantize(granularity="group"), ["group_size", "None"]),
        (lambda: Quantize(granularity="group", group_size=0), ["group_size", "0"]),
        (lambda: Quantize(group_size=32), ["group_size", "granularity='group'"]),
        (lambda: FixedPoint(fraction=127), ["fixed", "fraction", "126", "127"]),
        (lambda: FixedPoint(granularity="group"), ["granularity", "'group'"]),
        (lambda: Palettize(bits=9), ["palettize", "bits", "1 to 8"]),
        (lambda: Palettize(init="best"), ["init", "exact", "'best'"]),
        (lambda: Palettize(runs=0), ["runs", "0"]),
        (lambda: Cast("float64"), ["dtype", "bfloat16", "'float64'"]),
        (lambda: Binarize("group"), ["binary", "granularity"]),
        (lambda: Ternarize(rule="best"), ["ternary", "rule", "twn"]),
        (lambda: Prune(), ["prune", "exactly one", "density", "threshold"]),
        (lambda: Prune(density=0.5, threshold=0.1), ["exactly one"]),
        (lambda: Prune(density=0), ["density", "above 0", "got 0"]),
        (lambda: Prune(density=1.01), ["density", "1.01"]),
        (lambda: Prune(density=float("nan")), ["density", "nan"]),
        (lambda: Prune(threshold=-1e-9), ["threshold", "-1e-09"]),
        (lambda: Prune(threshold=float("inf")), ["threshold", "inf"]),
        (lambda: Prune(density=0.5, scope="model"), ["scope", "channel"]),
        (lambda: Quantize.from_dict({"name": "binary"}), ["uniform", "'binary'"]),
        (lambda: Quantize.from_dict({"bit": 8}), ["'bit'", "bits, symmetric"]),
        (lambda: Quantize(bit=8), ["uniform", "'bit'", "bits, symmetric"]),
        (lambda: Quantize.from_dict({8: "bits"}), ["unknown option 8"]),
        (lambda: Prune(sparsity=0.5), ["prune", "'sparsity'", "density=1 - sparsity"]),
        (lambda: Prune.from_dict({"amount": 0.5}), ["'amount'", "density=1 - amount"]),
        (lambda: PruneChannels(density=0.5), ["prune_channels", "'density'", "ratio=1 - density"]),
        (lambda: replace(Prune(density=0.5), sparsity=0.5), ["density=1 - sparsity"]),
    ],
)
def test_wrong_options_are_named(make, parts):
    with pytest.raises(UsageError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


def test_checked_names_leave_configs_what_they_were():
    config = Prune(0.25, scope="channel")
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == replace(config) == config
    assert list(inspect.signature(Prune).parameters)[:2] == ["density", "threshold"]


def test_configs_are_frozen():
    with pytest.raises(AttributeError):
        Quantize().bits = 4
