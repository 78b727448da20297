"""Loops of all kinds: accumulated gradients, autocast, averages, compilers, schedules of learning rates."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import tersor
from tersor import Distill, Distillation, Prune, Quantize, Rule, Schedule
from tersor.errors import UsageError
from tersor.shrinking.holding import masks_of
from tersor.training import MatchFeatures
from tests.sessions.toys import ClampInputs, Round, X, Y, adam, build, train

LATE = Rule(
    "*", Quantize(bits=4), Prune(density=0.5), schedule=Schedule("linear", end=3), train=Round(begin=2, pull=0.1)
)


def test_gradients_may_be_accumulated():
    whole, parted = build(), build()
    sessions = [tersor.prepare(m, LATE, optimizer=torch.optim.SGD(m.parameters(), lr=0.1)) for m in (whole, parted)]
    train(sessions[0], 4)
    for _ in range(4):
        sessions[1].optimizer.zero_grad()
        for part in (slice(0, 8), slice(8, 16)):
            task = (parted(X[part]) - Y[part]).square().mean() / 2
            sessions[1].loss(task, parts=2).backward()
        sessions[1].optimizer.step()
        sessions[1].step()
    for name, value in whole.state_dict().items():
        assert parted.state_dict()[name].float() == pytest.approx(value.float(), abs=1e-6), name


@pytest.mark.parametrize("rules", [LATE, Rule("*", prune=Prune(density=0.5))])
def test_what_a_teacher_says_is_divided_as_well(rules):
    """The sum of the gradients of equal parts is the gradient of the whole batch."""
    found = []
    for cuts in ((16,), (4, 4, 4, 4)):
        model = build()
        config = Distill(matches=(MatchFeatures("0", "0"),))
        distillation = Distillation(model, build(1), config, example_inputs=X)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        session = tersor.prepare(model, rules, optimizer=optimizer, distillation=distillation)
        for _ in range(4):
            optimizer.zero_grad()
            for x, y in zip(X.split(cuts), Y.split(cuts), strict=True):
                outputs = model(x)
                task = nn.functional.cross_entropy(outputs, y.argmax(1)) / len(cuts)
                session.loss(task, inputs=x, outputs=outputs, parts=len(cuts)).backward()
            optimizer.step()
            session.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("parts", [0, -2, 0.5, "2", True])
def test_parts_are_counted(parts):
    session = tersor.prepare(build(), Rule("*", prune=Prune(density=0.5)))
    with pytest.raises(UsageError, match="parts must be a positive integer"):
        session.loss(torch.zeros((), requires_grad=True), parts=parts)


def test_autocast_with_a_gradient_scaler():
    model = build()
    session = tersor.prepare(model, LATE, optimizer=adam(model))
    scaler = torch.amp.GradScaler("cpu")
    before = model[0].bias.detach().clone()
    for _ in range(4):
        session.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(X)
            assert outputs.dtype == torch.bfloat16
            loss = session.loss((outputs.float() - Y).square().mean())
        scaler.scale(loss).backward()
        scaler.step(session.optimizer)
        scaler.update()
        session.step()
    assert not torch.equal(model[0].bias, before) and model[0].weight.dtype == torch.float32
    assert session.density() == pytest.approx(0.5)
    session.finalize()


def test_a_bfloat16_network():
    model = build().bfloat16()
    session = tersor.prepare(model, Rule("*", Quantize(bits=4), train=Round()), optimizer=adam(model))
    for _ in range(2):
        session.optimizer.zero_grad()
        session.loss((model(X.bfloat16()) - Y).square().mean()).backward()
        session.optimizer.step()
        session.step()
    compressed = session.finalize()
    assert model[0].weight.dtype == torch.bfloat16
    assert torch.equal(compressed.state_dict()["0.weight"], model[0].weight)


def test_an_average_is_compressed_beside_the_session():
    model = build()
    rule = [Rule("*", Quantize(bits=4), Prune(density=0.5), train=Round()), Rule("2.weight", activations=ClampInputs())]
    session = tersor.prepare(model, rule, optimizer=adam(model))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        train(session, 1)
        average.update_parameters(model)
    stored, state = copy.deepcopy(average.module.state_dict()), copy.deepcopy(model.state_dict())
    masks = masks_of(model)
    compressed = session.finalize(average.module)
    weight = average.module[0].weight
    assert torch.equal(compressed.state_dict()["0.weight"], weight) and len(weight.unique()) <= 16
    assert bool((weight[~masks["0.weight"]] == 0).all())
    step = stored["0.parametrizations.weight.0.step"]
    kept = stored["0.parametrizations.weight.original"][masks["0.weight"]]
    assert float((weight.detach()[masks["0.weight"]] - kept).abs().max()) <= step.item() * 1.01
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    train(session, 1)  # which goes on
    assert hasattr(model[2], "input_quantizer") and not hasattr(average.module[2], "input_quantizer")


def test_compiled_networks_see_what_begins_later():
    plain, model = build(), build()
    compiled = torch.compile(model, backend="eager")
    sessions = [tersor.prepare(m, LATE, optimizer=torch.optim.SGD(m.parameters(), 0.1)) for m in (plain, compiled)]
    for _ in range(4):
        for session in sessions:
            train(session, 1)
        assert torch.allclose(compiled(X), plain(X), atol=1e-6)
    assert len(model[0].weight.unique()) <= 16
    compressed = sessions[1].finalize()
    assert torch.equal(compressed.state_dict()["0.weight"], model[0].weight)
    assert torch.allclose(compiled(X), model(X), atol=1e-6)


def test_schedulers_of_learning_rates_count_the_groups():
    model = build()
    session = tersor.prepare(model, LATE, optimizer=adam(model))
    scheduler = torch.optim.lr_scheduler.LambdaLR(session.optimizer, lambda step: 0.5**step)
    for _ in range(4):
        train(session, 1)
        scheduler.step()
    assert [group["lr"] for group in session.optimizer.param_groups] == pytest.approx([0.01 / 16, 1e-3 / 16])
    assert len(session.optimizer.param_groups[1]["params"]) == 2


def test_the_optimizer_keeps_what_it_knows():
    """Momentum of before the session, and of before a simulation began, still belongs to the same weights."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    (model(X) - Y).square().mean().backward()
    optimizer.step()
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    session = tersor.prepare(model, LATE, optimizer=optimizer)
    stored = model[0].parametrizations.weight.original
    assert torch.equal(optimizer.state[stored]["momentum_buffer"], momentum)
    train(session, 3)
    assert model[0].parametrizations.weight.original is stored
    assert not torch.equal(optimizer.state[stored]["momentum_buffer"], momentum)
