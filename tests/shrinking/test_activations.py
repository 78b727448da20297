import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.errors import CalibrationError, UsageError
from tersor.shrinking.activations import Site, observe_units
from tersor.shrinking.gradients import plain_name, weight_gradients
from tests.calibration.nets import squares


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


class Net(nn.Module):
    """Two convolutions with in-place activations, the first one read twice, and a flattened head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x):
        a = F.relu_(self.norm(self.first(x)))
        b = self.second(a)
        b += a
        return self.head(F.relu_(b).flatten(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 5)

    def forward(self, tokens):
        return self.down(F.gelu(self.up(self.table(tokens)))).mean(1)


def objective(model, batch):
    return squares(model(batch), None)


def pairs(units):
    return tuple((2 * u, 2 * u + 1) for u in range(units))


SINGLE = tuple((u,) for u in range(4))
SITES = {"first": (Site("second", "input", -3, SINGLE),)}


def tensors_at(model, batch):
    """The input of `second`, with its gradient, one sample at a time."""
    found = []
    model.eval()
    for x in batch:
        a = F.relu(model.norm(model.first(x[None]))).detach().requires_grad_()
        b = model.second(a) + a.detach()
        loss = squares(model.head(F.relu(b).flatten(1)), None)
        (gradient,) = torch.autograd.grad(loss, a)
        found.append((a.detach()[0], gradient[0]))
    return found


def test_statistics_are_those_of_one_sample_after_the_other():
    model = Net()
    batches = [torch.randn(5, 2, 3, 3), torch.randn(3, 2, 3, 3)]
    got = observe_units(model, batches, SITES, gradients=True, loss=objective)["first"]
    rows = [pair for batch in batches for pair in tensors_at(model, batch)]
    a = torch.stack([value for value, _ in rows]).double()
    gates = torch.stack([(value * g).sum((1, 2)) for value, g in rows]).double()
    assert got.samples == 8 and got.pooled.dtype == torch.float32
    torch.testing.assert_close(got.pooled.double(), a.mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.idle, (a <= 0).double().mean((0, 2, 3)))
    torch.testing.assert_close(got.mean, a.abs().mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.gate, gates.abs().mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.gate_square, gates.square().mean(0), rtol=1e-4, atol=1e-6)


def test_the_gate_is_the_derivative_by_a_factor_before_all_readers():
    model = Net().eval()
    x = torch.randn(6, 2, 3, 3)
    sites = {"a": (Site("norm", "output", -3, SINGLE),)}
    got = observe_units(model, [x], sites, gradients=True, loss=objective)["a"]
    for unit in range(4):
        derivatives = []
        for sample in x:
            factor = torch.ones(4, requires_grad=True)
            a = F.relu(model.norm(model.first(sample[None])) * factor[:, None, None])
            loss = squares(model.head(F.relu(model.second(a) + a).flatten(1)), None)
            derivatives.append(float(torch.autograd.grad(loss, factor)[0][unit]))
        assert float(got.gate_square[unit]) == pytest.approx(sum(d * d for d in derivatives) / 6, rel=1e-4)


def test_two_readers_of_one_stream_share_their_gates():
    """A residual stream: a factor on each block's output is a factor on all that later layers read."""

    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x, factor=1.0):
            s = self.start(x) * factor
            s = s + self.inner(s.relu()) * factor
            return self.head(s)

    model, x = Stream(), torch.randn(9, 3)
    sites = {"s": (Site("inner", "input", -1, SINGLE), Site("head", "input", -1, SINGLE))}
    got = observe_units(model, x, sites, gradients=True, loss=objective)["s"]
    for unit in range(4):
        total = 0.0
        for sample in x:
            factor = torch.ones(4, requires_grad=True)
            (g,) = torch.autograd.grad(squares(model(sample[None], factor), None), factor)
            total += float(g[unit]) ** 2
        assert float(got.gate_square[unit]) == pytest.approx(total / 9, rel=1e-4)


def test_a_unit_of_several_channels_is_pooled_over_them():
    model, x = Net(), torch.randn(5, 2, 3, 3)
    flat = tuple(tuple(range(9 * u, 9 * u + 9)) for u in range(4))
    maps = observe_units(model, x, {"m": (Site("head", "input", -1, flat),)}, gradients=True, loss=objective)["m"]
    seen = []
    handle = model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(5, 4, 3, 3)))
    model.eval()(x)
    handle.remove()
    torch.testing.assert_close(maps.pooled, seen[0].mean((2, 3)).detach())
    torch.testing.assert_close(maps.idle, (seen[0] <= 0).double().mean((0, 2, 3)))
    some = observe_units(model, x, {"m": (Site("head", "input", -1, flat[2:3]),)}, gradients=True, loss=objective)["m"]
    torch.testing.assert_close(some.pooled[:, 0], maps.pooled[:, 2])
    torch.testing.assert_close(some.gate, maps.gate[2:3])


def test_tokens_are_positions_and_results_do_not_depend_on_batches():
    model, tokens = Tokens(), torch.randint(7, (6, 5))
    sites = {"h": (Site("down", "input", -1, pairs(3)),), "e": (Site("table", "output", -1, SINGLE),)}
    whole = observe_units(model, tokens, sites, gradients=True, loss=objective)
    parts = observe_units(model, tokens.split(2), sites, gradients=True, loss=objective)
    for name in sites:
        for field in ("pooled", "idle", "mean", "gate", "gate_square"):
            torch.testing.assert_close(getattr(whole[name], field), getattr(parts[name], field), rtol=1e-4, atol=1e-7)
    assert whole["h"].pooled.shape == (6, 3)
    without = observe_units(model, tokens, sites)
    assert without["h"].gate is None and torch.equal(without["h"].pooled, whole["h"].pooled)


def test_sequence_first_inputs_are_told_by_the_batch():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(5, 7, 3)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, batch):
            return self.inner(batch.transpose(0, 1)).mean(0)

    site = {"s": (Site("inner.1", "input", -1, SINGLE),)}
    pooled = observe_units(First(), x, site)["s"].pooled
    torch.testing.assert_close(pooled, model[0](x).mean(1).detach())


def test_the_model_is_handed_back_as_it_came():
    model, x = Net().train(), torch.randn(4, 2, 3, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    observe_units(model, x, SITES, gradients=True)
    weight_gradients(model, x)
    assert torch.equal(random, torch.get_rng_state()) and model.training and model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_label_free_gates_are_seeded():
    model, x = Net(), torch.randn(4, 2, 3, 3)
    first, again, other = (observe_units(model, x, SITES, gradients=True, seed=s)["first"].gate for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_gradients_of_weights_are_means_over_batches():
    model = Net().eval()
    batches = [torch.randn(5, 2, 3, 3), torch.randn(3, 2, 3, 3)]
    got = weight_gradients(model, batches, loss=objective)
    assert set(got) == {name for name, _ in model.named_parameters()}
    for name, w in model.named_parameters():
        g = [torch.autograd.grad(objective(model, batch), w)[0] for batch in batches]
        torch.testing.assert_close(got[name].mean, (g[0] + g[1]) / 2)
        expected = ((w * g[0]).square() + (w * g[1]).square()).detach() / 2
        torch.testing.assert_close(got[name].taylor, expected)
    some = weight_gradients(model, batches, loss=objective, names=["head.weight"])
    assert list(some) == ["head.weight"] and torch.equal(some["head.weight"].mean, got["head.weight"].mean)


def test_tied_and_parametrized_weights_have_their_plain_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    torch.nn.utils.parametrizations.weight_norm(model[0], dim=0)
    torch.nn.utils.parametrize.register_parametrization(model[1], "bias", nn.Identity())
    got = weight_gradients(model, torch.randn(4, 3), loss=objective)
    assert "1.bias" in got and "1.weight" in got
    assert plain_name("a.parametrizations.weight.original") == "a.weight"
    assert plain_name("parametrizations.bias.original") == "bias"
    assert plain_name("a.parametrizations.weight.original0") == "a.parametrizations.weight.original0"
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    both = weight_gradients(tied, torch.randn(4, 3), loss=objective)
    assert set(both) == {"0.weight", "1.weight"} and torch.equal(both["0.weight"].mean, both["1.weight"].mean)


def test_parameters_that_do_nothing_have_gradients_of_zero():
    model = nn.Sequential(nn.Linear(3, 2))
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    assert weight_gradients(model, torch.randn(4, 3), loss=objective)["spare"].taylor.tolist() == [0, 0]


class TestErrors:
    def test_sites_must_exist_and_agree(self):
        model, x = Net(), torch.randn(2, 2, 3, 3)
        for sites, words in [
            ({"g": (Site("third", "input", -3, SINGLE),)}, "no module 'third'"),
            ({"g": ()}, "g: its sites"),
            ({"g": (Site("second", "input", -3, SINGLE), Site("head", "input", -1, pairs(3)))}, "same number"),
        ]:
            with pytest.raises(UsageError, match=words):
                observe_units(model, x, sites)
        for wrong in (("inside", -1, SINGLE), ("input", 1, SINGLE), ("input", -1, ((0,), (0,)))):
            with pytest.raises(UsageError, match="head: a site"):
                Site("head", *wrong)

    @pytest.mark.parametrize("samples", [[], iter(()), torch.zeros(0, 2, 3, 3)])
    def test_samples_must_be_there(self, samples):
        with pytest.raises(UsageError, match="there are none"):
            observe_units(Net(), samples, SITES)
        with pytest.raises(UsageError, match="there are none"):
            weight_gradients(Net(), [], loss=objective)

    def test_layers_that_see_nan_are_named(self):
        model, x = Net(), torch.randn(2, 2, 3, 3)
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
        with pytest.raises(CalibrationError, match="second: its input holds NaN"):
            observe_units(model, x, SITES)
        with pytest.raises(CalibrationError, match="loss is nan"):
            weight_gradients(model, x, loss=objective)
        with pytest.raises(CalibrationError, match=r"batch 0, .*holds NaN"):
            observe_units(Net(), x * float("nan"), SITES)

    def test_layers_that_are_never_called_are_named(self):
        model = Net()
        model.spare = nn.Linear(4, 4)
        with pytest.raises(CalibrationError, match="g: no sample reached spare"):
            observe_units(model, torch.randn(2, 2, 3, 3), {"g": (Site("spare", "input", -1, SINGLE),)})

    def test_channels_must_be_there(self):
        many = tuple((u,) for u in range(5))
        with pytest.raises(CalibrationError, match=r"second: .*does not have the channels"):
            observe_units(Net(), torch.randn(2, 2, 3, 3), {"g": (Site("second", "input", -3, many),)})

    def test_samples_that_cannot_be_told_apart(self):
        class Merged(Tokens):
            def forward(self, tokens):
                return self.down(self.up(self.table(tokens.flatten()[1:])))

        with pytest.raises(CalibrationError, match=r"down: .*cannot be told apart"):
            observe_units(Merged(), torch.randint(7, (6, 5)), {"h": (Site("down", "input", -1, pairs(3)),)})

    @pytest.mark.parametrize(
        ("loss", "words"),
        [
            (lambda model, batch: model(batch), "scalar"),
            (lambda model, batch: 3.0, "scalar"),
            (lambda model, batch: torch.tensor(1.0), "no gradient"),
            (lambda model, batch: model(batch).sum() / 0, "loss is"),
            (lambda model, batch: model(batch, batch), "loss raised TypeError"),
        ],
    )
    def test_losses_are_finite_scalars(self, loss, words):
        with pytest.raises(CalibrationError, match=f"calibration: batch 0.*{words}"):
            observe_units(Net(), torch.randn(2, 2, 3, 3), SITES, gradients=True, loss=loss)
        with pytest.raises(CalibrationError, match=words):
            weight_gradients(Net(), torch.randn(2, 2, 3, 3), loss=loss)

    def test_modules_without_gradients_are_named(self):
        class Fixed(Net):
            def forward(self, x):
                with torch.no_grad():
                    a = self.second(self.first(x))
                return self.head(a.flatten(1))

        with pytest.raises(CalibrationError, match=r"second: .*no_grad"):
            observe_units(Fixed(), torch.randn(2, 2, 3, 3), SITES, gradients=True, loss=objective)

    def test_parameters_must_exist(self):
        with pytest.raises(UsageError, match="third: the model has no parameter"):
            weight_gradients(Net(), torch.randn(2, 2, 3, 3), names=["third"])
