"""Codes go from layer to layer only where nobody else takes them in."""

import torch
from torch import nn

from tersor.integers.chains import Chain, find_chains

RELU = (0.0, float("inf"))


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
        self.inplace, self.drop = nn.ReLU(inplace=True), nn.Dropout()
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def chains(forward):
    return find_chains(Net(forward), ["a", "b"], torch.randn(3, 4))


def test_a_chain():
    found = chains(lambda m, x: m.b(m.drop(m.relu(m.a(x)))))
    assert found.of == {"a": Chain(RELU, "b"), "b": Chain()} and found.activations == {"relu"}
    assert chains(lambda m, x: m.b(m.inplace(m.a(x)))).of["a"] == Chain(RELU, "b")
    assert chains(lambda m, x: m.b(m.a(x))).of["a"] == Chain(None, "b")


def test_others_break_it():
    def residual(m, x):
        y = m.relu(m.a(x))
        return m.b(y) + y

    def early(m, x):
        y = m.a(x)
        return m.b(m.relu(y)) + y

    def returned(m, x):
        y = m.relu(m.a(x))
        return m.b(y), y

    assert chains(residual).of["a"] == Chain(RELU, None)
    assert chains(early).of["a"] == Chain() and not chains(early).activations
    assert chains(returned).of["a"] == Chain(RELU, None)
    assert chains(lambda m, x: m.b(torch.tanh(m.a(x)))).of["a"] == Chain()


def test_modules_that_are_used_twice():
    twice = chains(lambda m, x: m.b(m.a(m.a(x))))
    assert "a" not in twice.of and twice.of["b"] == Chain()
    both = chains(lambda m, x: m.relu(m.b(m.relu(m.a(x)))))
    assert both.of == {"a": Chain(RELU, "b"), "b": Chain(RELU)} and both.activations == {"relu"}
    other = chains(lambda m, x: m.relu(m.b(m.relu(m.a(x)))) + m.relu(x))
    assert not other.of and not other.activations
