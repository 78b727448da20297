"""nncodec as a rival: what its files hold, with and without folding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("nncodec")

from benchmarks.nncfile import Settings, blocks, decode, encode
from benchmarks.sources import ResNetCifar


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = ResNetCifar(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.01, 1.0)
    return network.eval()


@pytest.mark.parametrize("bnf", [False, True])
def test_fine_steps_keep_the_function(model: nn.Module, bnf: bool) -> None:
    settings = Settings(bnf=bnf)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoded = decode(encode(model, -60, settings), model, settings)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(decoded(images), model(images), rtol=1e-2, atol=1e-2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_coarser_steps_make_smaller_files(model: nn.Module) -> None:
    sizes = [len(encode(model, qp, Settings(use_dq=False, bnf=True, opt_qp=True))) for qp in (-40, -24, -8)]
    assert sizes == sorted(sizes, reverse=True)


def test_blocks_pair_each_batch_norm_with_its_convolution(model: nn.Module) -> None:
    owners = blocks(model)["block_identifier"]
    assert owners["layer2.0.bn2.weight"] == owners["layer2.0.conv2.weight"] == "layer2.0.conv2"
    assert owners["layer2.0.bn1.weight"] == "layer2.0.conv1"
    assert owners["linear.bias"] == "linear"
