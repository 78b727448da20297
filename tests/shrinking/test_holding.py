"""Masks hold against optimizers, copies, state_dicts and compilers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tersor.errors import MismatchError
from tersor.shrinking.holding import finalize, hold, holders, masks_of, release


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def half(shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def train(model, x, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_zeros_survive_momentum_and_decay():
    model, mask = small(), half((8, 6))
    train(model, torch.randn(4, 6))  # something for the momentum of a first optimizer
    hold(model, {"0.weight": mask})
    before = model[0].weight.detach().clone()
    train(model, torch.randn(4, 6))
    assert torch.equal(model[0].weight[~mask], torch.zeros(int((~mask).sum())))
    assert not torch.equal(model[0].weight[mask], before[mask])


def test_what_is_not_finite_is_pruned_too():
    model, mask = small(), half((8, 6))
    with torch.no_grad():
        model[0].weight[~mask] = torch.nan
    hold(model, {"0.weight": mask})
    assert torch.isfinite(model(torch.randn(2, 6))).all()
    model(torch.randn(2, 6)).sum().backward()
    assert torch.isfinite(model[0].parametrizations.weight.original.grad).all()


def test_state_dict_and_copies():
    model, mask = small(), half((8, 6))
    hold(model, {"0.weight": mask})
    x = torch.randn(2, 6)
    other = small()
    hold(other, {"0.weight": torch.ones(8, 6, dtype=torch.bool)})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x)) and torch.equal(masks_of(other)["0.weight"], mask)
    copied = finalize(copy.deepcopy(model))
    assert torch.equal(copied(x), model(x))
    hold(copied, {"0.weight": mask, "0.bias": half((8,))})
    assert torch.equal(model(x), other(x))


def test_a_copy_that_is_held_further_leaves_the_first():
    model = small()
    hold(model, {"0.weight": half((8, 6))})
    x = torch.randn(2, 6)
    before = model(x)
    hold(copy.deepcopy(model), {"0.bias": half((8,)), "0.weight": torch.zeros(8, 6, dtype=torch.bool)})
    assert torch.equal(model(x), before)


def test_a_new_mask_takes_the_place():
    model = small()
    hold(model, {"0.weight": half((8, 6))})
    second = half((8, 6), 2)
    hold(model, {"0.weight": second})
    assert len(model[0].parametrizations.weight) == 1
    assert torch.equal(model[0].weight != 0, second)
    assert list(holders(model)) == ["0.weight"]


def test_finalize_keeps_the_parameters_and_their_optimizer():
    model, mask = small(), half((8, 6))
    parameter = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hold(model, {"0.weight": mask})
    model(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    x = torch.randn(2, 6)
    before = model(x)
    assert finalize(model) is model
    assert type(model[0]) is nn.Linear and model[0].weight is parameter
    assert torch.equal(model(x), before) and torch.equal(parameter != 0, mask)
    assert list(model.state_dict()) and not holders(model)
    assert finalize(model) is model


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_weights(layer):
    torch.manual_seed(0)
    model = layer(4, 6, 2, bidirectional=True)
    name = "weight_hh_l1_reverse"
    mask = half(getattr(model, name).shape)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        getattr(plain, name).mul_(mask)
    hold(model, {name: mask})
    x = torch.randn(3, 2, 4)
    for found in (model, copy.deepcopy(model), model.double().float()):
        assert torch.equal(found(x)[0], plain(x)[0])
    model(x)[0].sum().backward()
    stored = model.parametrizations[name].original
    assert torch.equal(stored.grad != 0, mask)
    with torch.no_grad():
        stored.add_(1)
        getattr(plain, name).add_(mask.float())
    assert torch.equal(model(x)[0], plain(x)[0])
    finalize(model)
    assert type(model) is layer and torch.equal(model(x)[0], plain(x)[0])
    assert getattr(model, name) in set(model._flat_weights)


def test_tied_weights_stay_tied():
    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embedding.weight
    model, mask = nn.Sequential(embedding, head), half((7, 4))
    hold(model, {"1.weight": mask})
    for found in (model, copy.deepcopy(model)):
        assert torch.equal(found[0].weight != 0, mask) and torch.equal(found[1].weight, found[0].weight)
        assert len(list(found.parameters())) == 1
    finalize(model)
    assert model[0].weight is model[1].weight and torch.equal(model[0].weight != 0, mask)


def test_other_parametrizations_stay_under_the_mask():
    model, mask = nn.Sequential(weight_norm(nn.Linear(6, 8))), half((8, 6))
    dense = model[0].weight.detach().clone()
    hold(model, {"0.weight": mask})
    assert torch.equal(model[0].weight, dense * mask)
    model(torch.randn(2, 6)).square().sum().backward()
    assert model[0].parametrizations.weight.original1.grad is not None
    finalize(model)
    assert torch.equal(model[0].weight, dense * mask) and type(model[0]) is nn.Linear


def test_compiled():
    model, mask = small(), half((8, 6))
    hold(model, {"0.weight": mask})
    compiled, x = torch.compile(model, backend="eager", fullgraph=True), torch.randn(2, 6)
    assert torch.equal(compiled(x), model(x))
    hold(model, {"0.weight": ~mask})
    assert torch.equal(compiled(x), model(x))


def test_gradients_of_pruned_weights_on_request():
    model, mask = small(), half((8, 6))
    hold(model, {"0.weight": mask})
    holder = holders(model)["0.weight"]
    model(torch.randn(2, 6)).square().sum().backward()
    assert holder.gradient is None
    holder.watch = True
    model(torch.randn(2, 6)).square().sum().backward()
    assert holder.gradient.shape == mask.shape and (holder.gradient[~mask] != 0).any()


def test_masks_that_do_not_fit():
    model = small()
    for mask, message in (
        (half((6, 8)), r"0\.weight.*\(8, 6\).*\(6, 8\)"),
        (torch.ones(8, 6), r"0\.weight.*bool.*float32"),
        ([True], r"0\.weight.*bool.*list"),
    ):
        with pytest.raises(MismatchError, match=message):
            hold(model, {"2.weight": half((3, 8)), "0.weight": mask})
    with pytest.raises(MismatchError, match=r"1\.weight.*no such parameter"):
        hold(model, {"1.weight": half((8, 6))})
    assert not holders(model)


def test_release_gives_the_masks_and_leaves_other_parametrizations():
    model, mask = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3)), half((8, 6))
    dense = model[0].weight.detach().clone()
    hold(model, {"0.weight": mask, "1.weight": half((3, 8))})
    masks = release(model)
    assert torch.equal(masks["0.weight"], mask) and torch.equal(model[0].weight, dense)
    assert torch.equal(model[1].weight != 0, masks["1.weight"])
    assert len(model[0].parametrizations.weight) == 1 and type(model[1]) is nn.Linear
    hold(model, masks)
    assert torch.equal(model[0].weight, dense * mask)
