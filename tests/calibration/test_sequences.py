"""Attention and recurrent layers: outputs as torch's own, statistics against slow references."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from tersor.calibration import attention, recurrent
from tersor.calibration.collect import collect

from .nets import explicit_gradient, squares


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


class _Silent:
    """Observes nothing."""

    batch, gradients = 0, True

    def __call__(self, use):
        return use.output


class _First(nn.Module):
    """A module whose first output is the network's."""

    def __init__(self, inner, **kwargs):
        super().__init__()
        self.inner, self.kwargs = inner, kwargs

    def forward(self, x):
        return self.inner(x, **self.kwargs)[0]


RECURRENT = {
    "rnn": lambda: nn.RNN(3, 4, 2, batch_first=True),
    "rnn, relu, no bias": lambda: nn.RNN(3, 4, bias=False, nonlinearity="relu", batch_first=True),
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
    "lstm, projected": lambda: nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, 2, bidirectional=True, batch_first=True),
}


def _close(ours, torchs):
    if isinstance(torchs, (tuple, list)):
        for a, b in zip(ours, torchs, strict=True):
            _close(a, b)
    elif torchs is not None:
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_the_explicit_pass_gives_what_torch_gives(name):
    module = RECURRENT[name]()
    x = torch.randn(4, 6, 3)
    y, final = module(x)
    _close(recurrent.replay(module, (x,), {}, _Silent()), (y, final))
    _close(recurrent.replay(module, (x, final), {}, _Silent()), module(x, final))
    _close(recurrent.replay(module, (), {"input": x[0]}, _Silent()), module(x[0]))
    unbatched_state = tuple(s[:, 1] for s in final) if isinstance(final, tuple) else final[:, 1]
    _close(recurrent.replay(module, (x[1],), {"hx": unbatched_state}, _Silent()), module(x[1], unbatched_state))
    packed = pack_sequence([x[0, :3], x[1], x[2, :4], x[3, :1]], enforce_sorted=False)
    ours, torchs = recurrent.replay(module, (packed,), {}, _Silent()), module(packed)
    _close((ours[0].data, ours[1]), (torchs[0].data, torchs[1]))
    module.batch_first = False
    _close(recurrent.replay(module, (x,), {}, _Silent()), module(x))


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_weights(name):
    model = _First(RECURRENT[name]())
    x = torch.randn(5, 6, 3)
    got = collect(model, [x[:2], x[2:]], fisher=squares)
    weights = [n for n, _ in model.inner.named_parameters() if n.startswith("weight")]
    assert list(got) == [f"inner.{n}" for n in weights]
    for n in weights:
        statistics = got[f"inner.{n}"]
        expected = explicit_gradient(model, [x], lambda m, n=n: getattr(m.inner, n), statistics.layout)
        torch.testing.assert_close(statistics.gradient, expected, rtol=1e-4, atol=1e-7)
        assert statistics.count.tolist() == [30]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_moments_of_hidden_states(kind):
    """The hidden states before each step, from runs over ever longer beginnings and ends."""
    module = kind(3, 4, 1, bidirectional=True)
    x = torch.randn(5, 2, 3)
    hidden = {"": [torch.zeros(2, 4)], "_reverse": [torch.zeros(2, 4)]}
    for t in range(1, 5):
        for suffix, part, at in (("", x[:t], 0), ("_reverse", x[-t:], 1)):
            final = module(part)[1]
            hidden[suffix].append((final[0] if kind is nn.LSTM else final)[at].detach())
    got = collect(_First(module), [x])
    for suffix, states in hidden.items():
        h = torch.cat(states)
        torch.testing.assert_close(got[f"inner.weight_hh_l0{suffix}"].moment[0], h.T @ h, rtol=1e-4, atol=1e-5)
        flat = x.reshape(-1, 3)
        torch.testing.assert_close(got[f"inner.weight_ih_l0{suffix}"].moment[0], flat.T @ flat, rtol=1e-4, atol=1e-5)


ATTENTION = {
    "self": {},
    "batch first": {"batch_first": True},
    "other widths": {"kdim": 5, "vdim": 7},
    "extra keys": {"add_bias_kv": True, "add_zero_attn": True, "bias": False},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_gives_what_torch_gives(name):
    options = ATTENTION[name]
    module = nn.MultiheadAttention(8, 2, **options).eval()
    q, k, v = torch.randn(4, 3, 8), torch.randn(6, 3, options.get("kdim", 8)), torch.randn(6, 3, options.get("vdim", 8))
    mask = torch.rand(4, 6) < 0.3
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    calls = [
        ((q, k, v), {}),
        ((q, k, v), {"need_weights": False}),
        ((q[:, 0], k[:, 0], v[:, 0]), {"average_attn_weights": False}),
    ]
    if not options.get("batch_first"):
        calls.append(((q, k, v, padding), {"attn_mask": mask}))
    if options.get("batch_first"):
        calls[0] = ((q, k[:4], v[:4]), {})
        calls[1] = ((q, k[:4], v[:4]), {"need_weights": False})
    for args, kwargs in calls:
        _close(attention.replay(module, args, kwargs, _Silent()), module(*args, **kwargs))


class _SelfAttention(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.inner = nn.MultiheadAttention(6, 2, batch_first=batch_first)

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.inner(x, x.flip(2), x + 1, need_weights=False)[0]
        return y if self.batch_first else y.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_weights(batch_first):
    model = _SelfAttention(batch_first)
    x = torch.randn(4, 5, 6)
    got = collect(model, [x[:3], x[3:]], fisher=squares)
    assert list(got) == ["inner.in_proj_weight", "inner.out_proj.weight"]
    for moment, inputs in zip(got["inner.in_proj_weight"].moment, (x, x.flip(2), x + 1), strict=True):
        flat = inputs.reshape(-1, 6)
        torch.testing.assert_close(moment, flat.T @ flat, rtol=1e-4, atol=1e-5)
    for name, get in (
        ("inner.in_proj_weight", lambda m: m.inner.in_proj_weight),
        ("inner.out_proj.weight", lambda m: m.inner.out_proj.weight),
    ):
        expected = explicit_gradient(model, [x], get, got[name].layout)
        torch.testing.assert_close(got[name].gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("fisher", [False, squares])
def test_a_transformer_encoder_is_reached_in_every_layer(fisher):
    """torch's fused encoder would pass its submodules by."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    got = collect(model, [torch.randn(3, 4, 8)], fisher=fisher, unreached="error")
    assert [name for name in got if name.startswith("layers.1.")] == [
        "layers.1.self_attn.in_proj_weight",
        "layers.1.self_attn.out_proj.weight",
        "layers.1.linear1.weight",
        "layers.1.linear2.weight",
    ]
