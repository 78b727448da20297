"""Channels and blocks that go when a session begins: the network, its optimizer and its file follow."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersor
from tersor import Palettize, Prune, PruneBlocks, PruneChannels, Quantize, Recipe, Rule, Schedule
from tersor.errors import CalibrationError, ResumeError, UsageError
from tersor.shrinking.holding import hold
from tersor.structure.carried import rebuild
from tersor.training import Distill, Distillation, MatchFeatures

PICTURES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4
HALF = Rule("*", channels=PruneChannels(ratio=0.5))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.one, self.two = Block(8), Block(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.outer(F.relu(self.inner(x)))
        return self.head(self.two(self.one(x)).mean((2, 3)))


def build(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


def train(model, optimizer, session=None, steps: int = 2):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(PICTURES), LABELS)
        (loss if session is None else session.loss(loss)).backward()
        optimizer.step()
        if session is not None:
            session.step()


def test_removes_as_prune_does_and_keeps_all_objects():
    model, other = build(), build()
    modules, parameters = list(model.modules()), dict(model.named_parameters())
    session = tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer=sgd(model))
    pruned = tersor.prune(other, PruneChannels(ratio=0.5), example_inputs=PICTURES[:1]).model
    assert model.inner.out_channels == 6
    assert torch.equal(model.eval()(PICTURES), pruned.eval()(PICTURES))
    assert list(model.modules()) == modules
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    train(model.train(), session.optimizer, session)
    assert not torch.equal(model.eval()(PICTURES), pruned(PICTURES))


def test_moments_are_cut_as_the_parameters_are():
    model = build()
    optimizer = sgd(model)
    train(model, optimizer)
    inner = model.inner.weight
    moments, before = optimizer.state[inner]["momentum_buffer"].clone(), inner.detach().clone()
    tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer=optimizer)
    of_rows, of_columns = (
        [int((before.movedim(dim, 0).flatten(1)[:, None] == value).any(-1).nonzero()[0, 0]) for value in firsts]
        for dim, firsts in ((0, inner[:, 0, 0, 0]), (1, inner[0, :, 0, 0]))
    )
    assert torch.equal(before[of_rows][:, of_columns], inner)
    assert torch.equal(optimizer.state[inner]["momentum_buffer"], moments[of_rows][:, of_columns])
    train(model, optimizer)


def test_what_is_removed_twice_is_cut_where_it_now_lies():
    model = tersor.prune(build(), PruneChannels(ratio=0.25), example_inputs=PICTURES[:1]).model
    twice = copy.deepcopy(model)
    optimizer = sgd(model)
    train(model, optimizer, steps=1)
    twice.load_state_dict(model.state_dict())
    session = tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer=optimizer)
    twice = tersor.prune(twice, PruneChannels(ratio=0.5), example_inputs=PICTURES[:1]).model
    assert torch.equal(model.eval()(PICTURES), twice.eval()(PICTURES))
    train(model.train(), optimizer, session)
    fresh = build(1)
    state = session.finalize().state_dict()
    rebuild(fresh, model.state_dict())
    fresh.load_state_dict(state)
    assert torch.equal(fresh.eval()(PICTURES), model.eval()(PICTURES))


def test_dropped_blocks_leave_the_optimizer():
    model = build()
    optimizer = sgd(model)
    train(model, optimizer)
    gone = {id(p) for p in model.two.parameters()}
    session = tersor.prepare(
        model, Rule("*", blocks=PruneBlocks(names=("two",))), example_inputs=PICTURES[:1], optimizer=optimizer
    )
    left = [p for group in optimizer.param_groups for p in group["params"]]
    assert not gone & {id(p) for p in [*left, *optimizer.state]}
    assert len(left) == len(list(model.parameters()))
    train(model, optimizer, session)


def test_composes_with_masks_and_grids_and_rebuilds_from_the_file(tmp_path):
    model = build()
    hold(model, {"inner.weight": build().inner.weight.abs() > 0.05})
    recipe = Recipe([
        HALF,
        Rule("*", Quantize(bits=4)),
        Rule("inner.weight", prune=Prune(density=0.2), schedule=Schedule("cubic", begin=0, end=3)),
    ])  # fmt: skip
    session = tersor.prepare(model, recipe, example_inputs=PICTURES[:1], optimizer=sgd(model))
    train(model, session.optimizer, session, steps=4)
    tersor.save(session.finalize(), tmp_path / "net.tsr")
    assert len(model.inner.weight.unique()) <= 16 and int((model.inner.weight != 0).sum()) <= 0.2 * 6 * 8 * 9 + 1
    again = build(1)
    tersor.load(tmp_path / "net.tsr", into=again)
    assert torch.equal(again.eval()(PICTURES), model.eval()(PICTURES))


def test_repairs_where_there_are_samples():
    samples = [torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(1))]
    model, other = build(), build()
    tersor.prepare(model, HALF, calibration=samples)
    repaired = tersor.prune(other, PruneChannels(ratio=0.5), calibration=samples).model
    assert torch.equal(model.eval()(PICTURES), repaired.eval()(PICTURES))


def test_resumes_bit_by_bit_and_only_in_the_same_structure(tmp_path):
    recipe = [HALF, Rule("*", Quantize(bits=4))]

    def begun(seed: int):
        model = build(seed)
        return tersor.prepare(model, recipe, example_inputs=PICTURES[:1], optimizer=sgd(model))

    whole, first, second = begun(0), begun(0), begun(0)
    train(whole.model, whole.optimizer, whole, steps=4)
    train(first.model, first.optimizer, first)
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    train(second.model, second.optimizer, second)
    expected, found = whole.finalize().state_dict(), second.finalize().state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    with pytest.raises(ResumeError, match="other channels"):
        begun(5).load(tmp_path / "state.pt")


def test_refuses_what_it_cannot_follow_and_changes_nothing(tmp_path):
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="example_inputs"):
        tersor.prepare(model, HALF)
    with pytest.raises(UsageError, match="Optimizer"):
        tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer="adam")
    with pytest.raises(UsageError, match=r"nothing\.\*"):
        tersor.prepare(model, [HALF, Rule("nothing.*", Quantize(bits=4))], example_inputs=PICTURES[:1])
    with pytest.raises(UsageError, match="wrap"):
        tersor.prepare(torch.compile(model), HALF, example_inputs=PICTURES[:1])
    with pytest.raises(CalibrationError, match="example inputs"):
        tersor.prepare(model, HALF, example_inputs=torch.zeros(1, 5, 6, 6))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hints_follow_the_channels_that_are_left():
    """The projection was made for the network as it was."""
    for teacher in (build(1), Net()):
        model = build()
        config = Distill(matches=(MatchFeatures("inner", "inner"),))
        distillation = Distillation(model, teacher, config, example_inputs=PICTURES[:2])
        optimizer = sgd(model)
        session = tersor.prepare(
            model, HALF, example_inputs=PICTURES[:1], optimizer=optimizer, distillation=distillation
        )
        assert distillation.projections["0"].in_channels == model.inner.out_channels == 6
        before = distillation.projections["0"].weight.detach().clone()
        for _ in range(2):
            optimizer.zero_grad()
            outputs = model(PICTURES)
            session.loss(F.cross_entropy(outputs, LABELS), inputs=PICTURES, outputs=outputs).backward()
            optimizer.step()
            session.step()
        assert not torch.equal(before, distillation.projections["0"].weight)


def test_hints_that_cannot_follow_change_nothing():
    model, teacher = build(), build(1)
    distillation = Distillation(
        model, teacher, Distill(matches=(MatchFeatures("one", "one", "distance"),)), example_inputs=PICTURES[:2]
    )
    own = Rule("*.weight", channels=PruneChannels(ratio=0.5))
    late = Rule("head.weight", Palettize(bits=8))  # more centroids than weights
    projections = distillation.projections
    with pytest.raises(UsageError, match="centroids"):
        tersor.prepare(model, [own, late], example_inputs=PICTURES[:1], optimizer=sgd(model), distillation=distillation)
    assert distillation.projections is projections and model.inner.out_channels == 12


def test_moments_of_other_shapes_are_refused():
    model = build()
    optimizer = torch.optim.Adafactor(model.parameters(), 1e-2)
    train(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=r"stem\.weight loses channels, and Adafactor keeps for it row_var"):
        tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    train(model, optimizer)  # goes on as if nothing had been
    tersor.prepare(model, HALF, example_inputs=PICTURES[:1], optimizer=torch.optim.Adafactor(model.parameters(), 1e-2))


def test_dropped_blocks_take_their_names_along():
    model = build()
    optimizer = torch.optim.SGD(model.named_parameters(), 0.05, momentum=0.9)
    train(model, optimizer)
    drop = Rule("*", blocks=PruneBlocks(count=1))
    tersor.prepare(model, drop, example_inputs=PICTURES[:1], optimizer=optimizer, calibration=[PICTURES])
    (group,) = optimizer.param_groups
    assert dict(zip(group["param_names"], map(id, group["params"]), strict=True)) == {
        name: id(parameter) for name, parameter in model.named_parameters()
    }
