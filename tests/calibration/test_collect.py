"""Statistics against explicit sums, for every kind of layer whose output is one product."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from tersor.calibration import products
from tersor.calibration.collect import collect
from tersor.calibration.objectives import fisher_projection, random_projection
from tersor.calibration.samples import halves
from tersor.errors import CalibrationError, TersorWarning, UsageError

from .nets import explicit_gradient, explicit_moment, squares

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear of tokens": (lambda: nn.Linear(5, 3), (2, 6, 5)),
    "linear, many outputs": (lambda: nn.Linear(6, 40), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 5, 6)),
    "conv2d, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), (2, 2, 4, 5)),
    "conv2d, circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 4, 4)),
    "conv2d, replicated, same": (
        lambda: nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode="replicate", dilation=(1, 2)),
        (1, 2, 4, 6),
    ),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 2, 4, 5)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 2, 4, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2), (3, 4, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 3), padding=(0, 1, 1), stride=(1, 2, 1)), (1, 2, 3, 4, 4)),
    "transposed 1d": (
        lambda: nn.ConvTranspose1d(4, 3, 4, stride=3, padding=2, output_padding=1, dilation=2),
        (2, 4, 5),
    ),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 4, (3, 2), stride=2, padding=(3, 1)), (2, 3, 4, 3)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), groups=2), (2, 4, 3, 3)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, padding=1), (1, 2, 3, 3, 2)),
}


@pytest.mark.parametrize("width", [255, 256, 258, 301])
def test_wide_moments_are_symmetric(width):
    x = torch.randn(2, 50, width)
    got = collect(nn.Sequential(nn.Linear(width, 2)), [x])["0.weight"].moment[0]
    flat = x.reshape(-1, width)
    torch.testing.assert_close(got, flat.T @ flat, rtol=1e-4, atol=1e-4)
    assert torch.equal(got, got.T)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


@pytest.mark.parametrize("memory", [1, 2000, 1 << 26])
@pytest.mark.parametrize("name", LAYERS)
def test_moments_and_gradients_are_the_explicit_sums(name, memory):
    make, shape = LAYERS[name]
    model = nn.Sequential(make())
    x = torch.randn(shape)
    layout = products.layout(model[0])
    moment, total, count = explicit_moment(model[0], x, layout)
    batches = [x[:1], x[1:]] if len(x) > 1 else [x]
    got = collect(model, batches, fisher=squares, memory=memory)["0.weight"]
    assert got.samples == len(x)
    assert got.count.tolist() == [count] * layout.groups
    torch.testing.assert_close(got.moment.double(), moment, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.input_sum, total, rtol=1e-5, atol=1e-5)
    gradient = explicit_gradient(model, [x], lambda m: m[0].weight, layout)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-4, atol=1e-6)


def test_an_embedding_counts_its_tokens():
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 1, 1, 6], [1, 1, 2, 2]])
    got = collect(model, [tokens], fisher=squares)["0.weight"]
    assert got.moment.tolist() == [[1, 4, 2, 0, 0, 0, 1]]
    assert got.count.tolist() == [8]
    gradient = explicit_gradient(model, [tokens], lambda m: m[0].weight, got.layout)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-5, atol=1e-7)


def test_the_layout_gives_back_the_weight_and_multiplies_as_the_layer_does():
    for make, _ in LAYERS.values():
        module = make()
        layout = products.layout(module)
        matrices = layout.matrices(module.weight)
        assert matrices.shape == layout.shape(module.weight.shape)
        assert torch.equal(layout.weight(matrices, module.weight.shape), module.weight)


def test_hugging_face_conv1d_is_a_linear_with_inputs_first(monkeypatch):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return x @ self.weight

    Conv1D.__module__ = "transformers.pytorch_utils"
    model, x = nn.Sequential(Conv1D()), torch.randn(2, 5, 4)
    got = collect(model, [x], fisher=squares)["0.weight"]
    flat = x.reshape(-1, 4)
    torch.testing.assert_close(got.moment[0], flat.T @ flat)
    gradient = explicit_gradient(model, [x], lambda m: m[0].weight, got.layout)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-5, atol=1e-7)


class _Shared(nn.Module):
    """A module used twice, and two modules with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu_(self.a(torch.tanh(self.a(x)))))


def test_uses_add_up():
    model, x = _Shared(), torch.randn(6, 4)
    got = collect(model, [x[:4], x[4:]], fisher=squares)
    assert list(got) == ["a.weight"]
    with torch.no_grad():
        second = torch.tanh(model.a(x))
        third = torch.relu(model.a(second))
    expected = sum(v.T @ v for v in (x, second, third))
    torch.testing.assert_close(got["a.weight"].moment[0], expected, rtol=1e-5, atol=1e-5)
    assert got["a.weight"].samples == 6
    assert got["a.weight"].count.tolist() == [18]


def test_parametrized_weights_are_not_taken_for_one():
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(*(norm(nn.Linear(3, 3)) for _ in range(6)))
    assert list(collect(model, [torch.randn(2, 3)])) == [f"{i}.weight" for i in range(6)]


def test_a_tied_embedding_and_output_layer_have_an_entry_each():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    got = collect(Tied(), [torch.randint(9, (2, 5))])
    assert got["embed.weight"].moment.shape == (1, 9)
    assert got["head.weight"].moment.shape == (1, 4, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types(dtype):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)
    x = torch.randn(20, 6)
    got = collect(model, [x.to(dtype)], fisher=True)
    torch.testing.assert_close(got["0.weight"].moment[0], x.to(dtype).float().T @ x.to(dtype).float())
    assert got["2.weight"].gradient.min() > 0


def test_tensors_tuples_and_mappings_are_passed_as_the_model_wants_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, scale):
            return {"hidden": None, "logits": self.layer(x * scale)}

    x, scale = torch.randn(4, 3), torch.tensor(2.0)
    first = collect(Two(), [(x, scale)], fisher=True)["layer.weight"]
    second = collect(Two(), [{"scale": scale, "x": x}])["layer.weight"]
    assert torch.equal(first.moment, second.moment)
    torch.testing.assert_close(first.moment[0], 4 * x.T @ x)
    assert torch.equal(collect(nn.Sequential(nn.Linear(3, 2)), x)["0.weight"].moment[0], x.T @ x)


def _state(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        torch.random.get_rng_state().clone(),
        torch.backends.mha.get_fastpath_enabled(),
    )


class _Counting(nn.Module):
    """Draws numbers, counts its calls in a buffer, fails on demand."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(2, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        y = self.head(self.net(x).mean((2, 3)) + torch.rand(2))
        if y.shape[0] == 5:
            raise RuntimeError("five samples")
        return y


@pytest.mark.parametrize("fisher", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_handed_back_as_it_came(fisher, fails):
    model = _Counting()
    model.net[1].eval()
    model.head.bias.requires_grad_(False)
    samples = [torch.randn(3, 1, 6, 6), torch.randn(5 if fails else 4, 1, 6, 6)]
    before = copy.deepcopy(_state(model))
    if fails:
        with pytest.raises(CalibrationError, match=r"batch 1, torch.float32 \(5, 1, 6, 6\).*five samples"):
            collect(model, samples, fisher=fisher)
    else:
        collect(model, samples, fisher=fisher)
    after = _state(model)
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])
    assert before[5] == after[5]


def test_the_same_samples_and_seed_give_the_same_bits():
    model, x = _Counting(), torch.randn(4, 1, 6, 6)
    first, second = (collect(model, [x], fisher=True, seed=4) for _ in range(2))
    other = collect(model, [x], fisher=True, seed=5)
    for name, statistics in first.items():
        assert torch.equal(statistics.moment, second[name].moment)
        assert torch.equal(statistics.gradient, second[name].gradient)
    assert not torch.equal(first["head.weight"].gradient, other["head.weight"].gradient)


def test_projections_estimate_the_fisher_matrix():
    """For a softmax of a linear layer, E|g_r|^2 = p_r (1 - p_r) |x|^2."""
    model, x = nn.Sequential(nn.Linear(3, 4, bias=False)), torch.randn(1, 3)
    p = model(x).softmax(1)[0].double()
    got = collect(model, [x.expand(20000, 3)], fisher=True)["0.weight"]
    torch.testing.assert_close(got.row_weights()[0], (p * (1 - p)).detach(), rtol=0.05, atol=1e-3)


def test_projections_have_the_covariance_of_labels():
    logits = torch.randn(4, requires_grad=True)
    p = logits.detach().softmax(0).double()
    rows = logits.expand(50000, 4).clone().detach().requires_grad_()
    loss = fisher_projection(rows, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, rows)
    covariance = gradient.double().T @ gradient.double() / len(rows)
    torch.testing.assert_close(covariance, torch.diag(p) - torch.outer(p, p), rtol=0.05, atol=2e-3)


def test_objectives_by_the_shape_of_the_output():
    generator = torch.Generator().manual_seed(0)
    for shape, classes in (((2, 3, 4, 5), 1), ((2, 7, 3), 2), ((6, 3), 1)):
        output = torch.randn(shape, requires_grad=True)
        (gradient,) = torch.autograd.grad(fisher_projection(output, generator), output)
        # Probabilities sum to one: no gradient shifts all logits of a place.
        torch.testing.assert_close(gradient.sum(classes), torch.zeros_like(gradient.sum(classes)), atol=1e-5, rtol=0)
        assert bool((gradient.abs().sum(classes) > 0).all())
    assert random_projection(torch.ones(5), generator).shape == ()
    with pytest.raises(CalibrationError, match="no dimension of classes"):
        fisher_projection(torch.ones(5), generator)
    regression = nn.Sequential(nn.Linear(3, 1))
    assert collect(regression, [torch.randn(4, 3)], fisher=True)["0.weight"].gradient.min() > 0
    with pytest.raises(CalibrationError, match="returns str"):
        collect(_Returns("nothing"), [torch.randn(2, 3)], fisher=True)


class _Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.layer, self.value = nn.Linear(3, 2), value

    def forward(self, x):
        self.layer(x)
        return self.value


def test_an_input_that_is_overwritten_has_no_gradients():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            x = x + 1
            y = self.layer(x)
            x.mul_(2)
            return y + x

    collect(Overwrites(), [torch.randn(2, 3)])
    with pytest.raises(CalibrationError, match=r"layer\.weight: the model overwrites"):
        collect(Overwrites(), [torch.randn(2, 3)], fisher=True)


def test_gradients_that_cannot_flow_are_an_error():
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(2, 3)
    with torch.inference_mode():
        assert collect(model, [x], fisher=True)["0.weight"].gradient.min() > 0
    model.forward = torch.no_grad()(model.forward)
    with pytest.raises(CalibrationError, match=r"0\.weight: .*no_grad"):
        collect(model, [x], fisher=True)
    with pytest.raises(CalibrationError, match="the loss has no gradient"):
        collect(nn.Sequential(nn.Linear(3, 2)), [x], fisher=lambda output, _: output.detach().sum())


def test_samples_of_a_batch_are_found_in_other_dimensions():
    """Tokens first, and windows that join the batch: gradients are still by sample."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.windowed = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.first(x.transpose(0, 1)).tanh().transpose(0, 1)
            b, t, c = y.shape
            return self.windowed(y.reshape(b * 2, t // 2, c)).reshape(b, -1)

    model, x = Turned(), torch.randn(5, 6, 3)
    got = collect(model, [x[:4], x[4:]], fisher=squares)
    for name in ("first", "windowed"):
        layout = got[f"{name}.weight"].layout
        expected = explicit_gradient(model, [x], lambda m, name=name: getattr(m, name).weight, layout)
        torch.testing.assert_close(got[f"{name}.weight"].gradient, expected, rtol=1e-4, atol=1e-6)


def test_layers_may_be_chosen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    x = torch.randn(2, 3)
    assert list(collect(model, [x], layers=["1"])) == ["1.0.weight", "1.1.weight"]
    assert list(collect(model, [x], layers=["1.1.weight", "0"], fisher=True)) == ["0.weight", "1.1.weight"]
    with pytest.raises(UsageError, match=r"no weight '1\.2'.*1\."):
        collect(model, [x], layers=["1.2"])


def test_bad_samples_are_named():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    x = torch.randn(2, 3)
    for nothing in ([], iter(()), [torch.zeros(0, 3)]):
        with pytest.raises(UsageError, match="there are none"):
            collect(model, nothing)
    with pytest.raises(CalibrationError, match=r"batch 1, torch.float32 \(2, 4\): the model raised RuntimeError"):
        collect(model, [x, torch.randn(2, 4)])
    with pytest.raises(UsageError, match="batch 0 is ndarray"):
        collect(model, [x.numpy()])
    with pytest.raises(UsageError, match="iterable"):
        collect(model, 7)
    with pytest.raises(CalibrationError, match=r"batch 1, torch.float32 \(1, 3\), holds NaN"):
        collect(model, [x, torch.tensor([[1.0, float("nan"), 2.0]])])
    with pytest.raises(CalibrationError, match=r"batch 3, torch.float32 \(2, 4\)"):
        collect(model, halves([x, x, x, torch.randn(2, 4)])[1])
    with pytest.raises(CalibrationError, match=r"0\.weight: its input holds NaN, Inf"):
        collect(model, [x, torch.tensor([[1.0, float("inf"), 2.0]])])
    with torch.no_grad():
        model[0].bias[0] = float("inf")
    with pytest.raises(CalibrationError, match=r"2\.weight: its input holds NaN, Inf"):
        collect(model, [x])
    with pytest.raises(CalibrationError, match=r"0\.weight: the squares"):
        collect(nn.Sequential(nn.Linear(3, 1)), [x * 1e25])


@pytest.mark.parametrize("last", [torch.randn(2, 3), torch.randn(2, 4)], ids=["done", "refused"])
def test_activations_are_let_go(last):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
    outputs = []
    for layer in model:
        layer.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    with contextlib.suppress(CalibrationError):
        collect(model, [torch.randn(2, 3), last], fisher=True)
    gc.collect()
    assert len(outputs) >= 3
    assert not any(output() is not None for output in outputs)


def test_layers_that_are_never_reached_are_listed():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].unused = nn.Conv2d(1, 1, 1)
    x = [torch.randn(2, 3)]
    with pytest.warns(TersorWarning, match=r"no sample reached 0\.unused\.weight"):
        got = collect(model, x)
    assert list(got) == ["0.weight"]
    with pytest.raises(CalibrationError, match=r"0\.unused\.weight"):
        collect(model, x, unreached="error")
    collect(model, x, unreached="ignore")
    with pytest.raises(UsageError, match="unreached"):
        collect(model, x, unreached="maybe")
    with pytest.raises(UsageError, match="lazy"):
        collect(nn.Sequential(nn.LazyLinear(3)), x)
