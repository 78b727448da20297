"""Merging and keeping statistics."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersor.calibration import dependent_uniform, factorize, loss_steps, output_error, snap
from tersor.calibration.collect import collect
from tersor.calibration.statistics import merge
from tersor.calibration.store import load_statistics, save_statistics
from tersor.coding import to_indices
from tersor.errors import InputError, MismatchError, OutputError

from .nets import squares


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.conv = nn.ConvTranspose1d(4, 6, 3, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.head(self.conv(self.embed(tokens).transpose(1, 2)).mean(2))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return _Net()


def _equal(first, second, rtol):
    assert list(first) == list(second)
    for name, a in first.items():
        b = second[name]
        assert (a.shape, a.layout, a.samples) == (b.shape, b.layout, b.samples)
        for part in ("count", "moment", "input_sum", "gradient"):
            if getattr(a, part) is not None:
                torch.testing.assert_close(getattr(a, part), getattr(b, part), rtol=rtol, atol=rtol)


def test_merged_statistics_are_those_of_all_samples(net):
    tokens = torch.randint(11, (7, 5))
    first, second = (collect(net, [part], fisher=squares) for part in (tokens[:3], tokens[3:]))
    both = collect(net, [tokens], fisher=squares)
    _equal(merge(first, second), both, 1e-5)
    _equal(merge(first, {}), first, 0)
    assert list(merge({}, second)) == list(second)


def test_statistics_of_different_layers_are_not_merged(net):
    tokens = [torch.randint(11, (2, 5))]
    plain, fisher = collect(net, tokens), collect(net, tokens, fisher=squares)
    with pytest.raises(MismatchError, match=r"embed\.weight: .*gradients"):
        merge(plain, fisher)
    with pytest.raises(MismatchError, match="different layers"):
        plain["embed.weight"].merge(plain["head.weight"])
    with pytest.raises(MismatchError, match="moment must be"):
        dataclasses.replace(plain["head.weight"], moment=torch.zeros(1, 5, 5))


@pytest.mark.parametrize("fisher", [False, squares])
def test_a_file_gives_the_same_statistics(net, tmp_path, fisher):
    statistics = collect(net, [torch.randint(11, (4, 5))], fisher=fisher)
    path = tmp_path / "statistics.safetensors"
    save_statistics(statistics, path)
    _equal(load_statistics(path), statistics, 0)
    with pytest.raises(OutputError, match="exists"):
        save_statistics(statistics, path)
    save_statistics(statistics, path, force=True)


def test_damaged_files_are_refused(net, tmp_path):
    path = tmp_path / "statistics.safetensors"
    save_statistics(collect(net, [torch.randint(11, (4, 5))]), path)
    content = path.read_bytes()
    for cut in range(0, len(content), 97):
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(InputError, match="cut"):
            load_statistics(tmp_path / "cut")
    for old, new in ((b"tersor.statistics", b"tersor_statistics"), (b'groups\\":1', b'groups\\":0'), (b"[6,", b"[-,")):
        if old in content:
            (tmp_path / "other").write_bytes(content.replace(old, new))
            with pytest.raises(InputError, match="other"):
                load_statistics(tmp_path / "other")
    save_file({"x": torch.zeros(2)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="does not hold calibration statistics"):
        load_statistics(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_statistics(tmp_path / "missing")


def test_means_and_weights(net):
    tokens = torch.randint(11, (4, 5))
    got = collect(net, [tokens], fisher=squares)
    hidden = net.conv(net.embed(tokens).transpose(1, 2)).mean(2).detach()
    torch.testing.assert_close(got["head.weight"].mean_input()[0], hidden.mean(0).double(), rtol=1e-5, atol=1e-6)
    head = got["head.weight"]
    expected = head.gradient / head.moment[0].trace().double()
    torch.testing.assert_close(head.row_weights(), expected)
    assert torch.equal(collect(net, [tokens])["head.weight"].row_weights(), torch.ones(1, 3, dtype=torch.float64))


def test_an_embedding_by_its_rows(net):
    tokens = torch.randint(11, (4, 5))
    statistics = collect(net, [tokens], fisher=squares)["embed.weight"]
    turned = statistics.by_rows()
    assert turned.layout.shape(turned.shape) == (1, 11, 4)
    weight, other = torch.randn(11, 4), torch.randn(11, 4)
    by_outputs = (statistics.row_weights() * output_error(weight, other, statistics)).sum()
    by_tokens = (turned.row_weights() * output_error(weight, other, turned)).sum()
    torch.testing.assert_close(by_outputs, by_tokens, rtol=1e-5, atol=0)
    counts = torch.bincount(tokens.reshape(-1), minlength=11).double()
    torch.testing.assert_close(turned.row_weights()[0], counts / 4)
    steps = snap(loss_steps(turned.row_weights(), factorize(turned), 1e-4))
    got = dependent_uniform(weight, turned, factorize(turned), steps)
    assert got.scale.shape == (11, 1)
    assert got.trellis == 8
    to_indices(got.codes.numpy().reshape(-1), 4, 8)
    with pytest.raises(MismatchError, match="only an embedding"):
        collect(net, [tokens])["head.weight"].by_rows()
