"""A smaller file of the same network: what it computes, what of it stays, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import tersor
from tersor.container.writer import file_bytes
from tersor.errors import StructureError, TersorWarning, UsageError
from tersor.quantization import Binarize, FixedPoint, Palettize, Quantize, Ternarize
from tersor.sessions import packed
from tersor.sessions.finalizing import compressed_model
from tersor.simulation import QuantizeInputs, RateAware
from tersor.structure.groups import find_groups
from tersor.structure.surgery import shrink
from tersor.structure.trace import trace
from tersor.tensors import Uniform


class Net(nn.Module):
    """Pictures (N, 2, 6, 6) -> logits (N, 4), with batch norms."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(self.features(x).mean((2, 3)))))


X = torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(0))
BATCHES = list(X.split(12))


def worked(build=Net) -> nn.Module:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1.0, 2.0)
                module.bias.normal_()
        for _ in range(3):
            model.train()(X)
    return model.eval()


def compressed_by(model: nn.Module, **configs) -> tersor.CompressedModel:
    """Each named tensor (its dots underlined) by its config; the network holds what comes out."""
    weights = {}
    with torch.no_grad():
        for key, config in configs.items():
            weight = model.get_parameter(key.replace("__", "."))
            weights[key.replace("__", ".")] = config.fit(weight.detach())
            weight.copy_(weights[key.replace("__", ".")].dequantize())
    return compressed_model(model, weights)


def size(content: tersor.CompressedModel) -> int:
    return file_bytes(content.entries, attachments=content.attachments)


def opened(content: tersor.CompressedModel, path, build=Net) -> nn.Module:
    """From the file, in the original class."""
    tersor.save(content, path, force=True)
    again = build()
    again.load_state_dict(tersor.load(path))
    return again.eval()


@torch.no_grad()
def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    torch.testing.assert_close(found(X), wanted(X), rtol=1e-4, atol=1e-4)


REPRESENTATIONS = [
    (Quantize(bits=8, granularity="tensor"), True),
    (Quantize(bits=4), True),
    (Quantize(bits=4, granularity="group", group_size=5), False),  # steps along rows of what reads them
    (FixedPoint(bits=6), True),
    (Palettize(bits=3), True),
    (Binarize(), True),
    (Ternarize(granularity="tensor"), True),
]


@pytest.mark.parametrize(("config", "moves"), REPRESENTATIONS, ids=lambda value: str(value))
def test_units_move_where_representations_can_follow(config, moves, tmp_path):
    model = worked()
    before = compressed_by(model, features__0__weight=config, features__3__weight=config, hidden__weight=config)
    state = copy.deepcopy(model.state_dict())
    content = packed(model, before, X, vectors=None)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())  # it was not changed
    again = opened(content, tmp_path / "net.tsr")
    assert_same(again, model)
    assert size(content) < size(before)
    for name in ("features.0.weight", "features.3.weight", "hidden.weight"):
        old, new = model.get_parameter(name).detach(), again.get_parameter(name).detach()
        assert torch.equal(*(tensor.reshape(-1).sort().values for tensor in (old, new)))
        assert torch.equal(old, new) != (moves or name == "hidden.weight")
    kinds = {entry.name: type(entry.tensor) for entry in before.entries}
    assert all(type(e.tensor) is kinds[e.name] for e in content.entries if e.name.endswith("hidden.weight"))
    for norm in (again.features[1], again.features[4]):
        assert not norm.running_mean.any() and torch.all(norm.running_var + norm.eps == 1.0)


def test_after_a_session(tmp_path):
    """Rate-aware training, inputs quantized: dead units become zeros, vectors are rounded or keep what they are."""
    model = worked()
    recipe = tersor.Recipe(
        [
            tersor.Rule(
                ("*.weight", "hidden.bias"),
                Quantize(bits=8, granularity="tensor"),
                train=RateAware(multiplier=1e-5),
                activations=QuantizeInputs(),
            )
        ]
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    session = tersor.prepare(model, recipe, optimizer=optimizer, steps=2)
    for _ in range(2):
        optimizer.zero_grad()
        session.loss(model.train()(X).square().mean()).backward()
        optimizer.step()
        session.step()
    with torch.no_grad():
        model.eval().hidden.parametrizations.weight.original[:, 3] = 0.0  # nothing reads the channel
        model.features[0].parametrizations.weight.original[5] = 0.0
        model.features[1].running_mean[5], model.features[1].running_var[5] = 0.0, 0.0
        model.features[1].bias[5] = -1.0  # nor does anything pass the rectifier
    before = session.finalize()
    content, exact = packed(model, before, BATCHES), packed(model, before, BATCHES, vectors=None)
    again = opened(exact, tmp_path / "exact.tsr")
    assert_same(again, model)
    both = [copy.deepcopy(network) for network in (again, model)]
    for network in both:
        for name, quantizer in session.quantizers.items():
            network.get_submodule(name).register_forward_pre_hook(lambda _, args, own=quantizer: (own(args[0]),))
    with torch.no_grad():
        torch.testing.assert_close(both[0](X), both[1](X), rtol=2e-2, atol=2e-2)  # a step may be rounded otherwise
    for norm, layer in (again.features[1], again.features[3]), (again.features[4], again.hidden):
        assert int((norm.weight == 0).sum()) == 1 and norm.weight[-1] == 0.0  # the dead one comes last
        assert not layer.weight.detach()[:, -1].any()
    tensors = {entry.name: entry.tensor for entry in content.entries}
    old = next(entry.tensor for entry in before.entries if entry.name == "hidden.bias")
    found = tensors["hidden.bias"]
    assert torch.equal(found.base, old.base) and set(found.codes.tolist()) <= {0, *old.codes.tolist()}
    for name in ("features.1.weight", "features.1.bias", "features.4.bias", "head.bias"):
        assert isinstance(tensors[name], Uniform)
    assert size(content) < size(exact) < size(before)
    model.load_state_dict(content.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in content.state_dict().items())
    assert list(content.state_dict()) == list(before.state_dict())
    assert size(packed(model, content, BATCHES, vectors=None)) <= 1.01 * size(content)


def test_biases_that_a_recipe_compressed_take_over_no_constants(tmp_path):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0.0, 1.0
        model[2].weight[3], model[2].bias[3] = 0.0, 1.0
    tensor = Quantize(bits=8, granularity="tensor")
    configs = {f"{layer}__weight": tensor for layer in (0, 2, 4)}
    before = compressed_by(model, **configs, **{"2__bias": tensor})
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = packed(model, before, x, vectors=None).state_dict()
    zeros = {name: int((value.flatten(1) == 0).all(0).sum()) for name, value in found.items() if value.dim() > 1}
    assert zeros == {"0.weight": 0, "2.weight": 0, "4.weight": 1}
    again = copy.deepcopy(model)
    again.load_state_dict(found)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-4)


class Plain(nn.Module):
    """Norms that stay: without factors, without moments, with a factor that is another's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norms = nn.ModuleList([nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4), nn.BatchNorm1d(4)])
        self.none = nn.BatchNorm1d(4, track_running_stats=False)
        self.norms[2].weight = self.norms[1].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1e9:  # no graph has this
            return x
        x = self.first(x)
        for norm in self.norms:
            x = norm(x)
        return self.none(x)


def test_what_cannot_be_followed_stays():
    model = Plain()
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    model(3 * x)
    before = compressed_by(model.eval(), first__weight=Quantize(bits=4))
    with pytest.warns(TersorWarning, match="units stay"):
        found = packed(model, before, x, vectors=None).state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.items())


def test_norms_that_move_outputs(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    monkeypatch.setattr("tersor.sessions.packing.factor_and_shift", lambda norm: norm.weight.data.mul_(2.0))
    with pytest.raises(StructureError, match="batch norms in another form"):
        packed(model, compressed_model(model, {}), X[:, 0, 0, :3], vectors=None)


def test_smaller_networks_keep_their_manifest(tmp_path):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    traced = trace(model, (x,))
    small = shrink(model, {"0.weight": (1, 4)}, find_groups(traced), traced)
    before = replace(compressed_by(small, **{"0__weight": Quantize(bits=8)}), attachments={"mine": b"1"})
    content = packed(small, before, x)
    assert dict(content.attachments) == {"mine": b"1"} and content.original_bytes == before.original_bytes
    content = packed(small, compressed_by(small), x, vectors=None)
    tersor.save(content, tmp_path / "small.tsr")
    again = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    tersor.load(tmp_path / "small.tsr", into=again)
    assert again[0].out_features == 6
    with torch.no_grad():
        torch.testing.assert_close(again(x), small(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vectors", [0.0, -1.0, float("nan"), float("inf"), "x", True])
def test_bad_rates(vectors):
    with pytest.raises(UsageError, match="vectors must be"):
        packed(nn.Linear(2, 2), compressed_model(nn.Linear(2, 2), {}), X, vectors=vectors)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), "x", True, [1e-4]])
def test_bad_tolerances_are_refused_at_once(tolerance):
    with pytest.raises(UsageError, match="tolerance must be a number from 0 upwards"):
        packed(nn.Linear(2, 2), compressed_model(nn.Linear(2, 2), {}), X, tolerance=tolerance)


def test_arguments_of_wrong_types():
    model = nn.Linear(2, 2)
    content = compressed_model(model, {})
    for wrong in (None, "x", model.state_dict()):
        with pytest.raises(UsageError, match=r"packed takes the network first, an nn\.Module, got"):
            packed(wrong, content, X)
    for wrong in (None, "x", model):
        with pytest.raises(UsageError, match=r"compressed must be what session\.finalize\(\) gave, .*got"):
            packed(model, wrong, X)


def test_networks_of_other_files_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    content, x = compressed_by(model, **{"0__weight": Quantize(bits=4)}), torch.randn(4, 3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[1, 1] += 1e-6
    with pytest.raises(UsageError, match=r"0\.weight: the network does not hold"):
        packed(other, content, x)
    with pytest.raises(UsageError, match=r"1\.weight: the file has it"):
        packed(model[:1], content, x)
    with pytest.raises(UsageError, match=r"2\.weight: the network has it"):
        packed(nn.Sequential(*model, nn.Linear(4, 2)), content, x)
    with pytest.raises(UsageError, match="compressed is of a checkpoint"):
        packed(model, replace(content, source="safetensors"), x)
    with pytest.raises(UsageError, match="samples"):
        packed(model, content, [])
    session = tersor.prepare(copy.deepcopy(model), tersor.Rule("0.weight", Quantize(bits=4)))
    with pytest.raises(UsageError, match=r"0\.weight: it is parametrized"):
        packed(session.model, content, x)
