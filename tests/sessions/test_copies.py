"""Averages and copies that are compressed in the place of a session's network."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import tersor
from tersor import Palettize, Prune, Quantize, Rule, Schedule
from tersor.errors import MismatchError, UsageError
from tersor.shrinking.holding import masks_of
from tersor.simulation import SignActivations
from tests.sessions.toys import Round, X, adam, build, train

RULES = [
    Rule("0.weight", Palettize(bits=2), Prune(density=0.4)),
    Rule("2.weight", Quantize(bits=4), Prune(density=0.2), schedule=Schedule("linear", end=3), train=Round()),
]


def trained(use_buffers, rules=RULES):
    model = nn.Sequential(*build(), nn.BatchNorm1d(4))
    session = tersor.prepare(model, rules, optimizer=adam(model))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=use_buffers)
    for _ in range(4):
        train(session, 1)
        average.update_parameters(model)
    return session, average


def test_averaged_buffers_of_the_network_but_not_of_masks_and_codes():
    session, average = trained(use_buffers=True)
    assert not torch.equal(average.module[3].running_mean, session.model[3].running_mean)
    means, masks = average.module[3].running_mean.clone(), masks_of(session.model)
    codes = session.model[0].parametrizations.weight[0].codes.clone()
    centroids = average.module[0].parametrizations.weight[0].table().detach()
    state = session.finalize(average).state_dict()
    assert torch.equal(state["3.running_mean"], means)
    assert torch.equal(state["0.weight"], centroids.reshape(-1)[codes.long()] * masks["0.weight"])
    assert bool((state["2.weight"][~masks["2.weight"]] == 0).all())
    assert session.density() == pytest.approx(sum(int((state[n] != 0).sum()) for n in masks) / 100, abs=0.02)
    train(session, 1)  # which goes on


def test_averaged_masks_alone_are_refused():
    session, average = trained(use_buffers=True)
    with torch.no_grad():
        average.module[2].parametrizations.weight[1].mask.fill_(True)
    before = copy.deepcopy(average.module.state_dict())
    with pytest.raises(MismatchError, match=r"(codes|mask) are not those .*give the AveragedModel itself"):
        session.finalize(average.module)
    assert all(torch.equal(value, before[name]) for name, value in average.module.state_dict().items())


def test_an_average_without_buffers_and_a_copy_are_taken_as_they_are():
    session, average = trained(use_buffers=False)
    snapshot = copy.deepcopy(session.model)
    same = session.finalize(copy.deepcopy(average)).state_dict(), session.finalize(average.module).state_dict()
    assert all(torch.equal(value, same[1][name]) for name, value in same[0].items())
    now = session.finalize(snapshot).state_dict()
    session.finalize(session.model)  # the session's own network: the end
    assert session.over and all(torch.equal(now[name], value) for name, value in session.model.state_dict().items())


def test_what_is_no_copy():
    session, average = trained(use_buffers=False)
    session.finalize(average)
    with pytest.raises(MismatchError, match=r"no copy .*0\.parametrizations.*finalized once is an ordinary network"):
        session.finalize(average)
    with pytest.raises(MismatchError, match=r"it has no 0\.parametrizations"):
        session.finalize(nn.Sequential(*build(), nn.BatchNorm1d(4)))
    for wrong in ("model.tsr", 3, average.module.state_dict()):
        with pytest.raises(UsageError, match="takes a copy of the session's network, got"):
            session.finalize(wrong)
    wide = tersor.prepare(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4), nn.BatchNorm1d(4)), RULES)
    with pytest.raises(MismatchError, match=r"0\.\w+ is torch.float32 of shape \(12,\) instead of .* \(10,\)"):
        session.finalize(wide.model)
    train(session, 1)


def test_a_copy_of_before_the_quantizers_of_inputs_came():
    model = build()
    before = copy.deepcopy(model)
    session = tersor.prepare(model, Rule("2.weight", activations=SignActivations()))
    assert int((model(X) - before(X)).abs().gt(0).sum()) > 0
    with pytest.raises(MismatchError, match="it has no 2"):
        session.finalize(before)
