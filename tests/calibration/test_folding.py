"""Batch norms folded into the layers before them: the same function, under the same names."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.calibration.folding import bias_of, fold_batch_norms
from tersor.errors import CalibrationError, UsageError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def lively(model):
    """Batch norms with moments and parameters as after training, some channels dead."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0.5, 1)
            module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias)
                with torch.no_grad():
                    module.weight[0] = 0
    return model.eval()


def check(model, x, folded, rtol=1e-4):
    """Folds, compares outputs, names and shapes; returns the result."""
    lively(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    result = fold_batch_norms(model, [x])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    after = result.model.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    with torch.no_grad():
        expected, got = model(x), result.model(x)
    assert float((expected - got).norm() / expected.norm()) < rtol
    assert dict(result.folded) == folded
    for name in folded:
        norm = result.model.get_submodule(name)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight)) and not norm.running_mean.any()
        if norm.running_var.dtype == torch.float32:
            assert torch.equal((norm.running_var + norm.eps).sqrt(), torch.ones_like(norm.running_var))
    return result


class Block(nn.Module):
    """A residual block with an option A shortcut."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.planes, self.stride = planes, stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        return F.relu(out + x)


def test_residual_network():
    model = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2), nn.Flatten(), nn.Linear(8 * 9, 3))
    expected = {f"{i}.bn{j}": f"{i}.conv{j}" for i in (0, 1) for j in (1, 2)}
    result = check(model, torch.randn(5, 4, 6, 6), expected)
    assert result.bias_of == {f"{i}.conv{j}.weight": f"{i}.bn{j}.bias" for i in (0, 1) for j in (1, 2)} | {
        "3.weight": "3.bias"
    }


LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (5, 4, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2, bias=False), (3, 2, 3, 3, 3)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False), (5, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1), (5, 4, 3, 3)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (5, 4, 3, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_output_channels_are_where_the_layer_has_them(kind):
    make, shape = LAYERS[kind]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    model = nn.Sequential(make(), norm(6, eps=1e-3), nn.ReLU())
    result = check(model, torch.randn(shape), {"1": "0"})
    assert result.model[0].bias is None or not result.model[0].bias.any()
    assert result.bias_of == {"0.weight": "1.bias"}


def test_dead_channels_become_zero_rows():
    result = check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.randn(2, 3, 5, 5), {"1": "0"})
    assert not result.model[0].weight[0].any() and result.model[0].weight[1].any()


def test_training_mode_is_not_what_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    result = fold_batch_norms(model, [torch.randn(2, 3, 5, 5)])
    assert model.training and not result.model.training and not result.model[1].training


class PreActivation(nn.Module):
    """Batch norm first; conv1's output is also the shortcut, so that it must not be folded into."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.bn3(x)


def test_an_output_with_two_users_is_left():
    result = check(PreActivation(), torch.randn(2, 3, 6, 6), {"bn2": "conv1"})
    # The others are normalised by themselves.
    for norm in (result.model.bn1, result.model.bn3):
        assert not norm.running_mean.any() and torch.equal((norm.running_var + norm.eps).sqrt(), torch.ones(4))
    assert result.bias_of["stem.weight"] == "stem.bias" and result.bias_of["conv1.weight"] == "bn2.bias"


class Functional(nn.Module):
    """Between the layer and its batch norm, or beside it, something else uses the output."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.use = use

    def forward(self, x):
        y = self.conv(x)
        if self.use == "inplace":
            return self.bn(y.add_(1).relu_())
        if self.use == "beside":
            return self.bn(y) * y.sigmoid()
        if self.use == "twice":
            return self.bn(self.conv(F.pad(self.bn(y), (1, 1, 1, 1))[:, :3]))
        if self.use == "two norms":
            return self.bn(y) + self.other(y)
        if self.use == "one norm twice":
            return self.bn(y) + self.bn(-y)
        if self.use == "weight":
            return self.bn(y) + self.conv.weight.sum()
        return self.bn(y.view_as(y))


@pytest.mark.parametrize("use", ["inplace", "beside", "twice", "two norms", "one norm twice", "weight"])
def test_what_is_used_otherwise_is_left(use):
    result = check(Functional(use), torch.randn(2, 3, 6, 6), {})
    assert not result.model.bn.running_mean.any()
    assert result.bias_of == {"conv.weight": "conv.bias"}


def test_a_view_of_the_same_shape_is_the_same():
    check(Functional("view"), torch.randn(2, 3, 6, 6), {"bn": "conv"})


def test_only_the_pairs_at_fault_are_left():
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(5)]
    blocks.insert(2, PreActivation())
    blocks[2].stem = nn.Conv2d(4, 4, 1)
    beside = Functional("beside")
    beside.conv = nn.Conv2d(4, 4, 1)
    blocks.insert(4, beside)
    model = nn.Sequential(*blocks)
    expected = {f"{i}.1": f"{i}.0" for i in (0, 1, 3, 5, 6)} | {"2.bn2": "2.conv1"}
    check(model, torch.randn(4, 4, 5, 5), expected)


def test_shared_tensors_are_left():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model[3].weight = model[0].weight
    result = check(model, torch.randn(2, 4, 5, 5), {})
    assert result.model[3].weight is result.model[0].weight
    assert result.bias_of == {}


def test_batch_norms_without_parameters_or_moments_stay():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
    )  # fmt: skip
    result = check(model, torch.randn(8, 3, 4, 4), {})
    after = result.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items())


def test_folds_that_are_not_finite_stay():
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].running_var[2] = float("nan")
    result = fold_batch_norms(model, [torch.randn(2, 3, 4, 4)])
    assert dict(result.folded) == {"3": "2"}
    assert torch.equal(result.model[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_keep_their_dtype(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    check(model.to(dtype), torch.randn(4, 3, 8, 8).to(dtype), {"1": "0", "4": "3"}, rtol=0.03)


def test_a_model_that_insists_on_narrow_floats():
    class Insistent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).bfloat16()

        def forward(self, x):
            return self.inner(x.bfloat16())

    check(Insistent(), torch.randn(4, 3, 8, 8), {"inner.1": "inner.0"}, rtol=0.03)


def test_no_samples_and_samples_that_do_not_fit():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match="samples"):
        fold_batch_norms(model, [])
    with pytest.raises(CalibrationError, match="batch 0"):
        fold_batch_norms(model, [torch.randn(2, 5, 4, 4)])


def test_bias_of_layers_without_batch_norms():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.none = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.attention = nn.MultiheadAttention(4, 2)
            self.apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
            self.rnn, self.table = nn.LSTM(4, 4), nn.Embedding(5, 4)

    assert bias_of(Mixed()) == {
        "plain.weight": "plain.bias",
        "attention.in_proj_weight": "attention.in_proj_bias",
        "attention.out_proj.weight": "attention.out_proj.bias",
        "apart.out_proj.weight": "apart.out_proj.bias",
    }
    assert bias_of(nn.Linear(2, 2)) == {"weight": "bias"}


def test_shared_modules_and_biases_have_no_place():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    assert bias_of(model) == {"2.weight": "2.bias"}
    assert bias_of(copy.deepcopy(model)) == {"2.weight": "2.bias"}
