"""A session: what is simulated, pruned and learned, and what comes out."""

import io

import torch
from torch import nn

import tersor
from tersor import Prune, Quantize, Rule
from tests.sessions.toys import Round, X, adam, build, train

ROUND = Rule("*", Quantize(bits=4), train=Round())


def loaded(compressed):
    file = io.BytesIO()
    tersor.save(compressed, file)
    file.seek(0)
    return tersor.load(file)


def same(state, other):
    assert list(state) == list(other)
    return all(torch.equal(state[name], other[name]) for name in state)


def test_what_is_finalized_is_what_was_trained():
    model = build()
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    session = tersor.prepare(model, [ROUND], optimizer=adam(model))
    assert len(model[0].weight.unique()) <= 16
    train(session, 5)
    expected = model.eval()(X)
    compressed = session.finalize()
    assert type(model[0]) is nn.Linear and list(model.state_dict()) == names
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert torch.equal(model(X), expected)
    assert same(compressed.state_dict(), model.state_dict())
    assert len(model[2].weight.unique()) <= 16


def test_saved_and_loaded(tmp_path):
    model = build()
    session = tersor.prepare(
        model, [Rule("*", Quantize(bits=4), Prune(density=0.3), train=Round())], optimizer=adam(model)
    )
    train(session, 3)
    tersor.save(session.finalize(), tmp_path / "model.tsr")
    assert same(tersor.load(tmp_path / "model.tsr"), model.state_dict())
    assert int((model[0].weight != 0).sum()) <= 18


def test_own_parameters_learn_at_their_rate_without_decay():
    model = build()
    optimizer = adam(model)
    session = tersor.prepare(model, [Rule("*", Quantize(bits=4), train=Round(rate=0.25))], optimizer=optimizer)
    group = optimizer.param_groups[1]
    assert group["lr"] == 0.25 and group["weight_decay"] == 0.0 and len(group["params"]) == 2
    before = [parameter.detach().clone() for parameter in group["params"]]
    train(session, 1)
    assert all(not torch.equal(now, then) for now, then in zip(group["params"], before, strict=True))
    session.finalize()
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 0]
