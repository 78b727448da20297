"""A session: what is simulated, pruned and learned, and what comes out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import tersor
from tersor import Palettize, Prune, Quantize, Recipe, Regrow, Rule, Schedule
from tersor.errors import CalibrationError, DivergenceError, MismatchError, OutputError, TersorWarning, UsageError
from tersor.quantization import FixedPoint
from tersor.shrinking.holding import masks_of
from tersor.simulation import QuantizeInputs, SignActivations
from tersor.training import Distill, soft_targets
from tests.sessions.toys import ClampInputs, Round, X, Y, adam, build, train

ROUND = Rule("*", Quantize(bits=4), train=Round())


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


def test_an_optimizer_may_join_later():
    models = build(), build()
    session = tersor.prepare(models[0], [ROUND], optimizer=adam(models[0]))
    late = tersor.prepare(models[1], [ROUND])
    late.join(adam(models[1]))  # of all parameters: those of the simulations move to their own group
    assert [len(group["params"]) for group in late.optimizer.param_groups] == [4, 2]
    assert len(late.own_parameters()) == 2
    train(session, 2)
    train(late, 2)
    assert same(models[0].state_dict(), models[1].state_dict())
    with pytest.raises(UsageError, match="already"):
        late.join(adam(models[1]))


def test_what_begins_later_needs_an_optimizer():
    session = tersor.prepare(build(), Rule("0.weight", Quantize(bits=4), train=Round(begin=1)))
    session.step()
    with pytest.raises(UsageError, match=r"nobody trains .* come with 0\.weight \(Grid\).*optimizer"):
        session.step()


def test_parameters_that_nobody_trains_are_told_at_the_first_step():
    model = build()
    session = tersor.prepare(model, [ROUND, Rule("2.weight", activations=ClampInputs())])
    session.loss((model(X) - Y).square().mean()).backward()
    with pytest.raises(UsageError, match=r"0\.weight \(Grid\), 2\.weight \(Grid\), 2 \(Clamp\).*session\.join"):
        session.step()
    assert session.done == 0
    session.join(adam(model))
    session.step()
    assert session.done == 1
    silent = tersor.prepare(build(), Rule("*", prune=Prune(density=0.5)))
    silent.step()  # masks have nothing to train


def test_schedules_that_the_training_is_too_short_for():
    model = build()
    rules = [
        Rule("*", prune=Prune(density=0.2), schedule=Schedule("linear", end=8)),
        Rule("2.weight", prune=Prune(density=0.5), schedule=Schedule("linear", end=2)),
        Rule("1*", prune=Prune(density=0.1), schedule=Schedule("one_shot", begin=9)),
        Rule("3.weight", prune=Prune(density=0.1)),
    ]
    model.add_module("1b", nn.Linear(4, 4))
    model.add_module("3", nn.Linear(4, 4))
    with pytest.warns(TersorWarning, match=r"ends at step 4: the rule for '\*' .* keeps 0\.6 .* 0\.2, .*'1\*'"):
        session = tersor.prepare(model, rules, optimizer=adam(model), steps=4)
    train(session, 6)
    with pytest.warns(
        TersorWarning, match=r"ends at step 6: the rule for '\*' .* keeps 0\.4 .* instead of 0\.2"
    ) as told:
        session.finalize()
    assert len(told) == 1 and "2.weight" not in str(told[0].message) and "3.weight" not in str(told[0].message)
    assert int((model[0].weight != 0).sum()) == 24


def test_a_schedule_of_one_shot_from_the_beginning_prunes():
    model = build()
    session = tersor.prepare(
        model, Rule("*", prune=Prune(density=0.5), schedule=Schedule("one_shot")), optimizer=adam(model), steps=1
    )
    train(session, 1)
    session.finalize()
    assert int((model[0].weight != 0).sum()) == 30


def test_techniques_compose_and_keep_what_earlier_ones_did():
    """Pruned by a schedule first, then simulated under the mask that came of it, then with quantized inputs."""
    model = build()
    recipe = Recipe(
        [
            Rule("*", Quantize(bits=4), Prune(density=0.2), schedule=Schedule("cubic", end=4), train=Round(begin=5)),
            Rule("2.*", activations=ClampInputs(begin=6)),
        ]
    )
    session = tersor.prepare(model, recipe, optimizer=adam(model))
    train(session, 4)
    masks = masks_of(model)
    assert session.density() == pytest.approx(0.2) and len(model[0].weight.unique()) == 13
    train(session, 1)
    assert [type(part).__name__ for part in model[0].parametrizations.weight] == ["Grid", "Mask"]
    train(session, 3)
    assert list(session.quantizers) == ["2"] and model[2].input_quantizer.bound.grad is not None
    assert all(torch.equal(mask, masks[name]) for name, mask in masks_of(model).items())
    bound = session.quantizers["2"]
    compressed = session.finalize()
    assert not hasattr(model[2], "input_quantizer") and session.quantizers["2"] is bound
    assert not model[2]._forward_pre_hooks
    for name, mask in masks.items():
        assert torch.equal(compressed.state_dict()[name] != 0, mask & (model.get_parameter(name) != 0))
        assert int((model.get_parameter(name)[~mask] != 0).sum()) == 0


def test_pruning_goes_on_while_weights_are_simulated():
    """What is stored is compared, not the few values of the grid: these would be ties."""
    model = build()
    rule = Rule(
        "0.*", Quantize(bits=2), Prune(density=0.5), schedule=Schedule("one_shot", begin=2), train=Round(bits=2)
    )
    session = tersor.prepare(model, rule, optimizer=adam(model))
    train(session, 1)
    session.optimizer.zero_grad()
    session.loss((model(X) - Y).square().mean()).backward()
    session.optimizer.step()
    stored = model[0].parametrizations.weight.original.detach().clone()
    session.step()
    kept = stored.abs().flatten().argsort(descending=True)[:30]
    assert set(masks_of(model)["0.weight"].flatten().nonzero().flatten().tolist()) == set(kept.tolist())
    assert [type(part).__name__ for part in model[0].parametrizations.weight] == ["Grid", "Mask"]


def test_regrowth():
    model = build()
    rule = Rule("*", prune=Prune(density=0.5), regrow=Regrow(share=0.5, every=2, end=9))
    session = tersor.prepare(model, rule, optimizer=adam(model))
    before = masks_of(model)
    train(session, 2)
    after = masks_of(model)
    assert session.density() == pytest.approx(0.5) and bool((after["0.weight"] & ~before["0.weight"]).any())


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 6)
            self.body = nn.Linear(6, 6)
            self.head = nn.Linear(6, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.body(self.embed(tokens)))

    torch.manual_seed(0)
    model, tokens = Tied(), torch.tensor([[0, 1], [2, 4]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = tersor.prepare(
        model, [Rule("head.weight", Quantize(bits=3), Prune(density=0.5), train=Round(bits=3))], optimizer=optimizer
    )
    assert len(optimizer.param_groups[1]["params"]) == 1
    for _ in range(3):
        optimizer.zero_grad()
        session.loss(model(tokens).square().mean()).backward()
        optimizer.step()
        session.step()
    expected = model(tokens)
    compressed = session.finalize()
    assert model.head.weight is model.embed.weight and torch.equal(model(tokens), expected)
    ties = {entry.name: entry.tied_to for entry in compressed.entries}
    assert ties["head.weight"] == "embed.weight" and len(model.head.weight.unique()) <= 8


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers(kind):
    torch.manual_seed(0)
    model = kind(3, 4, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = tersor.prepare(
        model, [Rule("weight*", Quantize(bits=3), Prune(density=0.6), train=Round(bits=3))], optimizer=optimizer
    )
    inputs = torch.randn(2, 5, 3)
    for _ in range(2):
        optimizer.zero_grad()
        session.loss(model(inputs)[0].square().mean()).backward()
        optimizer.step()
        session.step()
    expected = model(inputs)[0]
    assert model.parametrizations.weight_hh_l0[0].step.grad is not None
    compressed = session.finalize()
    assert type(model) is kind and torch.equal(model(inputs)[0], expected)
    assert same(compressed.state_dict(), model.state_dict())


def test_penalties_join_the_loss_by_the_clock():
    model = build()
    session = tersor.prepare(
        model, [Rule("*", Quantize(bits=2), train=Round(bits=2, pull=0.5, begin=1))], optimizer=adam(model), steps=5
    )
    zero = torch.zeros((), requires_grad=True)
    assert session.loss(zero).item() == 0
    session.step()
    assert session.loss(zero).item() == 0  # the ramp begins with the simulation
    session.step()
    parts = [layer.parametrizations.weight for layer in (model[0], model[2])]
    wanted = sum(0.5 * 0.25 * (part.original - part[0](part.original)).square().sum().item() for part in parts)
    loss = session.loss(zero)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert float(session.loss(zero, parts=2)) == pytest.approx(wanted / 2, rel=1e-5)
    loss.backward()
    assert parts[0].original.grad.abs().sum() > 0


def test_without_training_the_representation_is_fitted_at_the_end():
    model = build()
    session = tersor.prepare(
        model, [Rule("*", tersor.Cast("bfloat16"), Prune(density=0.5)), Rule("0.bias", tersor.Cast("float16"))]
    )
    compressed = session.finalize()
    assert torch.equal(model[0].weight, model[0].weight.bfloat16().float())
    assert torch.equal(model[0].bias, model[0].bias.half().float()) and int((model[0].weight != 0).sum()) == 30
    assert same(compressed.state_dict(), model.state_dict())


def test_a_shared_codebook_is_fitted_at_the_end():
    model = build()
    session = tersor.prepare(model, [Rule("*", Palettize(bits=2), shared=True)])
    session.finalize()
    values = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).unique()
    assert len(values) == 4


def test_a_teacher():
    teacher, model = build(1).train(), build()
    session = tersor.prepare(model, [ROUND], optimizer=adam(model), teacher=teacher)
    outputs = model(X)
    task = outputs.square().mean()
    loss = session.loss(task, inputs=X, outputs=outputs)
    soft = soft_targets(outputs, teacher(X), Distill().temperature)
    wanted = 0.1 * task + 0.9 * soft
    assert loss.item() == pytest.approx(wanted.item()) and teacher.training
    loss.backward()
    assert teacher[0].weight.grad is None
    assert session.loss(inputs=X, outputs=outputs).item() == pytest.approx((0.9 * soft).item(), rel=1e-4)


def test_a_distillation_with_parameters():
    class Projected(nn.Module):
        rate = 0.5

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.closed = False

        def forward(self, inputs, outputs, task_loss=None, *, answers):
            return task_loss + (self.scale * outputs - answers).square().mean()

        def close(self):
            self.closed = True

    model, distillation = build(), Projected()
    session = tersor.prepare(model, [ROUND], optimizer=adam(model), distillation=distillation)
    assert [group["lr"] for group in session.optimizer.param_groups] == [0.01, 1e-3, 0.5]
    outputs = model(X)
    session.loss(outputs.mean(), inputs=X, outputs=outputs, answers=Y).backward()
    session.optimizer.step()
    assert float(distillation.scale.detach()) != 1
    session.finalize()
    assert distillation.closed


def test_shapes_of_teacher_and_student_must_agree():
    teacher, model = nn.Linear(6, 5), build()
    session = tersor.prepare(model, [ROUND], teacher=teacher)
    with pytest.raises(MismatchError, match=r"teacher 0 has shape \(16, 5\), the student's \(16, 4\)"):
        session.loss(inputs=X, outputs=model(X))
    with pytest.raises(UsageError, match=r"inputs=\.\.\., outputs"):
        session.loss(model(X).mean())


def test_a_teacher_that_gives_no_number_is_named():
    teacher, model = build(1), build()
    torch.nn.init.constant_(teacher[2].bias, torch.nan)
    session = tersor.prepare(model, [ROUND], teacher=teacher)
    with pytest.raises(CalibrationError, match="output of teacher 0 are NaN or Inf"):
        session.loss(model(X).mean(), inputs=X, outputs=model(X))
    session = tersor.prepare(build(), [ROUND], distillation=lambda *_: torch.tensor(torch.nan))
    with pytest.raises(DivergenceError, match=r"teacher nan.*Look at what the teacher gives"):
        session.loss(model(X).mean(), inputs=X, outputs=model(X))
    session = tersor.prepare(build(), [ROUND], distillation=lambda *_: 3.0)
    with pytest.raises(UsageError, match="what the distillation gives must be a scalar tensor, got a float"):
        session.loss(inputs=X, outputs=X)


def test_quantized_inputs_go_on_to_integers():
    model = build()
    rule = Rule("*.weight", Quantize(bits=4), activations=QuantizeInputs(bits=4))
    session = tersor.prepare(model, rule, optimizer=adam(model))
    with pytest.raises(CalibrationError, match="inputs of 0: no training batch"):
        session.grids()
    train(session, 3)
    expected = model.eval()(X)
    session.finalize()
    assert not torch.allclose(model(X), expected, atol=1e-3)  # the file holds weights alone
    integers = tersor.quantize_int8(model, [X], weights=Quantize(bits=4), grids=session.grids(), correct=False)
    assert integers.model(X).sub(expected).abs().max() < 0.02 * expected.abs().max()
    signs = tersor.prepare(build(), Rule("2.weight", activations=SignActivations()))
    assert signs.grids() == {}


def test_errors_of_quantized_inputs_name_the_layer():
    model = build()
    tersor.prepare(model, Rule("0.weight", activations=QuantizeInputs()))
    with pytest.raises(CalibrationError, match="inputs of 0: an activation holds NaN"):
        model(X * torch.nan)
    with pytest.raises(UsageError, match="0: inputs that are quantized must be the layer's first positional"):
        model[0](input=X)


def test_quantizers_that_no_batch_reached_are_told():
    model = build()
    session = tersor.prepare(model, Rule("*.weight", activations=QuantizeInputs()), optimizer=adam(model))
    model.eval()
    train(session, 1)
    with pytest.warns(TersorWarning, match=r"no training batch has reached .* of the inputs of 0, 2"):
        session.finalize()


def test_a_loss_that_is_no_number_stops(tmp_path):
    model = build()
    session = tersor.prepare(model, [ROUND], optimizer=adam(model), checkpoint=tmp_path / "state.pt")
    train(session, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DivergenceError, match=r"step 3: .*task nan.*state\.pt"):
        session.loss(model(X).mean() * torch.nan)
    fresh = build()
    again = tersor.prepare(fresh, [ROUND], optimizer=adam(fresh))
    again.load(tmp_path / "state.pt")
    assert again.done == 2 and same(fresh.state_dict(), before)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([Rule("2.wieght", Quantize())], "2.wieght.*matches none"),
        ([Rule("2.*", FixedPoint(), train=Round())], r"2\.weight: round is not for fixed point"),
        ([Rule("*", Palettize(), shared=True), Rule("2.*", train=Round())], "2.weight: a codebook that several"),
        ([Rule("1.*", Quantize())], "matches none"),
        ([Rule("norm.weight", activations=ClampInputs())], "norm: clamp_inputs is not for BatchNorm1d"),
        ([Rule("*", prune=Prune(density=0.5, criterion="wanda"))], "weight: criterion 'wanda' needs calibration"),
        ([Rule("*", prune=Prune(density=0.5, criterion="obs"))], "weight: the criterion 'obs'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(rules, says):
    model = build()
    model.add_module("norm", nn.BatchNorm1d(4))
    with pytest.raises(UsageError, match=says):
        tersor.prepare(model, rules)


def test_more_conflicts():
    model = build()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(UsageError, match=r"2\.weight: more centroids than weights"):
        tersor.prepare(model, [ROUND])
    model = build()
    tersor.prepare(model, [ROUND])
    with pytest.raises(UsageError, match="in a session already"):
        tersor.prepare(model, [ROUND])
    model = build()
    weight_norm(model[0])
    with pytest.raises(UsageError, match=r"0\.weight: _WeightNorm computes this weight"):
        tersor.prepare(model, [ROUND])
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    with pytest.raises(UsageError, match=r"a\.weight and b\.weight are one tensor.*two repr.* 'a\.\*' and .* 'b\.\*'"):
        tersor.prepare(model, [Rule("a.*", Quantize(bits=4)), Rule("b.*", Quantize(bits=5))])
    lstm = nn.LSTM(2, 2)
    with pytest.raises(UsageError, match="quantizes its inputs in two ways"):
        tersor.prepare(
            lstm, [Rule("weight_i*", activations=ClampInputs()), Rule("weight_h*", activations=ClampInputs(rate=1.0))]
        )


def test_wrong_use(tmp_path):
    model = build()
    for wrong in ({"steps": 0}, {"optimizer": 3}, {"teacher": 3}, {"distillation": 3}, {"progress": print}):
        with pytest.raises(UsageError):
            tersor.prepare(build(), [ROUND], **wrong)
    with pytest.raises(OutputError, match="does not exist"):
        tersor.prepare(build(), [ROUND], checkpoint=tmp_path / "none" / "state.pt")
    with pytest.raises(UsageError, match="takes an nn"):
        tersor.prepare(model.state_dict(), [ROUND])
    session = tersor.prepare(model, [ROUND])
    with pytest.raises(UsageError, match="scalar"):
        session.loss(model(X))
    with pytest.raises(UsageError, match="task's loss"):
        session.loss()
    session.finalize()
    for call in (session.step, session.finalize, session.state_dict, lambda: session.loss(torch.zeros(()))):
        with pytest.raises(UsageError, match="over"):
            call()
