"""The zoo itself: networks of the published sizes, in which a mistake would show."""

import pytest
import torch
from torch import nn

from tests.zoo.catalogue import CATALOGUE
from tests.zoo.entry import Entry

ENTRIES = [pytest.param(entry, id=name) for name, entry in CATALOGUE.items()]


def available(entry: Entry) -> Entry:
    if entry.package is not None:
        pytest.importorskip(entry.package)
    return entry


@pytest.mark.parametrize("entry", ENTRIES)
def test_full_size_has_the_published_number_of_parameters(entry):
    if available(entry).parameters is None:
        pytest.skip("its authors publish no number")
    with torch.device("meta"):
        model = entry.full()
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_network_twice(entry):
    before = torch.get_rng_state()
    first, (args, kwargs) = available(entry).make()
    second, _ = entry.make()
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in first.modules())
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(first(*args, **kwargs), second(*args, **kwargs))


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_layer_counts(entry):
    """The two samples of the example differ in the output, and so does the output where a layer is cut away."""
    model, (args, kwargs) = available(entry).make()
    with torch.no_grad():
        output = model(*args, **kwargs)
        spread = output.std()
        assert torch.isfinite(output).all() and spread > 1e-3
        assert (output[0] - output[1]).abs().max() > 1e-3 * spread
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            kept = module.weight.clone()
            module.weight.zero_()
            assert (model(*args, **kwargs) - output).abs().max() > 1e-4 * spread, name
            module.weight.copy_(kept)


def test_enough_families_without_other_packages():
    assert len({entry.build().__class__.__name__ for entry in CATALOGUE.values() if entry.package is None}) >= 12
