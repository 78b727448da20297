"""The loss of a student with its teachers: its parts, what it leaves alone, and how it fails."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersor
from tersor.errors import CalibrationError, MismatchError, UsageError
from tersor.training import (
    Distill,
    Distillation,
    MatchFeatures,
    angle_loss,
    attention_loss,
    distance_loss,
    ensemble_logits,
    hint_loss,
    relative_error,
    soft_targets,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network(width, classes=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16 * width, classes),
    )


INPUTS = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def answer(teacher, inputs=INPUTS):
    with torch.no_grad():
        return copy.deepcopy(teacher).eval()(inputs)


def snapshot(model):
    flags = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    return flags, [p.requires_grad for p in model.parameters()], copy.deepcopy(model.state_dict())


def test_the_parts_and_their_sum():
    student, teachers = network(2), [network(3), network(5)]
    distillation = Distillation(student, teachers, Distill(temperature=3.0, weight=0.7))
    outputs = student(INPUTS)
    task = F.cross_entropy(outputs, LABELS)
    loss = distillation(INPUTS, outputs, task)
    soft = soft_targets(outputs, ensemble_logits([answer(t) for t in teachers], 3.0), 3.0)
    assert torch.allclose(loss, 0.3 * task + 0.7 * soft)
    assert torch.allclose(distillation.last["soft"], soft) and torch.equal(distillation.last["task"], task)
    assert not any(part.requires_grad for part in distillation.last.values())
    assert torch.allclose(distillation(INPUTS, outputs), 0.7 * soft)
    assert not list(distillation.parameters()) and not distillation.state_dict()


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_ensembles_as_configured(mean):
    student, teachers = network(2), [network(3), network(3)]
    outputs = 5 * student(INPUTS)
    loss = Distillation(student, teachers, Distill(2.0, 1.0, mean))(INPUTS, outputs)
    assert torch.allclose(loss, soft_targets(outputs, ensemble_logits([answer(t) for t in teachers], 2.0, mean), 2.0))


def test_gradients_keep_their_size_whatever_the_temperature():
    """At high temperatures t^2 KL tends to |z - v|^2 / (2 C) of centred logits (Hinton et al. 2015, equation 4)."""
    z, v = torch.randn(6, 4), torch.randn(6, 4)
    limit = ((z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))) / (4 * 6)
    for temperature in (50.0, 200.0):
        logits = z.clone().requires_grad_()
        soft_targets(logits, v, temperature).backward()
        assert torch.allclose(logits.grad, limit, atol=5 / temperature * float(limit.abs().max()))


def test_teachers_are_left_as_they_were():
    student, teacher = network(2), network(3).train()
    teacher[0].weight.requires_grad_(False)
    before, state = snapshot(teacher), torch.get_rng_state()
    distillation = Distillation(
        student, teacher, Distill(matches=(MatchFeatures("2", "2", "attention"),)), example_inputs=INPUTS
    )
    assert torch.equal(state, torch.get_rng_state())
    distillation(INPUTS, student(INPUTS)).backward()
    after = snapshot(teacher)
    assert before[:2] == after[:2] and all(torch.equal(before[2][k], after[2][k]) for k in before[2])
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    with pytest.raises(CalibrationError):
        distillation(torch.randn(2, 3), student(INPUTS))
    assert snapshot(teacher)[:2] == before[:2]


def test_matches_of_features():
    student, teacher = network(2).eval(), network(3).eval()
    matches = (
        MatchFeatures("2", "2", "hint", 2.0),
        MatchFeatures("1", "2", "attention", 3.0),
        MatchFeatures("3", "3", "distance", 4.0),
        MatchFeatures("", "", "angle", 5.0),
    )
    before = snapshot(student)
    distillation = Distillation(student, teacher, Distill(1.0, 0.0, matches=matches), example_inputs=INPUTS)
    assert snapshot(student)[1] == before[1]
    learned = distillation.projections["0"]
    assert set(dict(distillation.named_parameters())) == {"projections.0.weight", "projections.0.bias"}
    own, wanted = [INPUTS], [INPUTS]
    for a, b in zip(student, teacher, strict=True):
        own.append(a(own[-1]))
        wanted.append(b(wanted[-1]))
    loss = distillation(INPUTS, student(INPUTS), torch.tensor(7.0))
    expected = 7 + 2 * hint_loss(learned(own[3]), wanted[3]) + 3 * attention_loss(own[2], wanted[3])
    expected = expected + 4 * distance_loss(own[4], wanted[4]) + 5 * angle_loss(own[6], wanted[6])
    assert torch.allclose(loss, expected)
    loss.backward()
    assert learned.weight.grad.any() and student[0].weight.grad.any()
    assert {"soft", "task", *map(str, matches)} == set(distillation.last)
    distillation.close()
    assert snapshot(student)[0] == before[0]


def test_equal_channels_need_no_projection():
    student, teacher = network(3), network(3)
    matches = (MatchFeatures("2", "2"), MatchFeatures("0", "0", number=1))
    distillation = Distillation(student, [teacher, network(5)], Distill(matches=matches), example_inputs=INPUTS)
    assert set(distillation.projections) == {"1"}


def test_features_are_those_of_the_training_call():
    student, teacher = network(2), network(2)
    config = Distill(weight=0.0, matches=(MatchFeatures("0", "0"),))
    distillation = Distillation(student, teacher, config, example_inputs=INPUTS)
    with torch.no_grad():
        expected = hint_loss(student[0](INPUTS), teacher[0](INPUTS))
    student(INPUTS)
    with torch.no_grad():
        student(torch.zeros(3, 1, 6, 6))  # an evaluation in between
    assert torch.allclose(distillation(INPUTS, answer(student)), expected)
    with pytest.raises(CalibrationError, match="'0' gave no output"):
        distillation(INPUTS, answer(student))


def test_known_answers_take_the_teachers_place():
    student, teacher = network(2), network(3)
    distillation = Distillation(student, teacher)
    outputs, known = student(INPUTS), answer(teacher)
    expected = distillation(INPUTS, outputs)
    teacher.forward = None  # never called
    assert torch.equal(distillation(None, outputs, answers=[known]), expected)
    with pytest.raises(MismatchError, match="answers of 2"):
        distillation(INPUTS, outputs, answers=[known, known])


def test_outputs_that_are_no_logits():
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    inputs = torch.randn(5, 3)
    loss = Distillation(student, [teacher, teacher], Distill(weight=1.0, classes=False))(inputs, student(inputs))
    assert torch.allclose(loss, relative_error(student(inputs), teacher(inputs)))


def test_a_student_learns_what_only_its_teacher_knows():
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    distillation = Distillation(student, teacher, Distill(4.0, 1.0))
    optimizer = torch.optim.Adam(student.parameters(), 0.1)
    inputs = torch.randn(64, 4)
    for _ in range(100):
        optimizer.zero_grad()
        loss = distillation(inputs, student(inputs))
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert (student(inputs).argmax(1) == teacher(inputs).argmax(1)).float().mean() > 0.9


def test_configs_travel_as_json():
    config = Distill(2.5, 0.5, "logits", True, (MatchFeatures("a", "b", "angle", 0.1, 1), MatchFeatures()))
    assert Distill.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"weight": 1.5},
        {"ensemble": "median"},
        {"classes": 3},
        {"matches": "features"},
        {"matches": (3,)},
        {"matches": ({"kind": "taste"},)},
        {"matches": ({"weight": -1},)},
        {"matches": ({"student": 3},)},
    ],
)
def test_configs_are_checked(wrong):
    with pytest.raises(UsageError):
        Distill(**wrong)


def test_errors_name_what_and_where():
    student, teacher = network(2), network(3)
    with pytest.raises(MismatchError, match=r"teacher 1 has shape \(6, 5\), the student's \(6, 4\)"):
        Distillation(student, [teacher, network(3, classes=5)])(INPUTS, student(INPUTS))
    with pytest.raises(UsageError, match="no teachers"):
        Distillation(student, [])
    for own in (student, nn.Sequential(student)):
        with pytest.raises(UsageError, match="student itself"):
            Distillation(student, own)
    with pytest.raises(CalibrationError, match="teacher 1 with the student's inputs"):
        Distillation(student, [teacher, nn.Linear(3, 4)])(INPUTS, student(INPUTS))
    with pytest.raises(CalibrationError, match="outputs, what the student gave"):
        Distillation(student, teacher)(INPUTS, 3)
    with pytest.raises(UsageError, match="teacher 0 must be"):
        Distillation(student, [3])
    with pytest.raises(UsageError, match="example_inputs"):
        Distillation(student, teacher, Distill(matches=(MatchFeatures("2", "2"),)))
    for match, text in (
        (MatchFeatures("nowhere", "2"), "the student has no module 'nowhere'"),
        (MatchFeatures("2", "nowhere"), "teacher 0 has no module 'nowhere'"),
        (MatchFeatures("2", "2", number=1), "only 1 teachers"),
        (MatchFeatures("2", "3"), r"hint of '2' and teacher 0's '3'.*\(6, 2, 4, 4\)"),
        (MatchFeatures("3", "3", "attention"), "no map of attention"),
    ):
        with pytest.raises((UsageError, MismatchError), match=text):
            Distillation(student, teacher, Distill(matches=(match,)), example_inputs=INPUTS)
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())


def test_in_a_session():
    student, teacher = network(2), network(3)
    config = Distill(2.0, 0.5, matches=(MatchFeatures("2", "2"),), rate=0.05)
    distillation = Distillation(student, teacher, config, example_inputs=INPUTS)
    before = copy.deepcopy(distillation.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    recipe = tersor.Recipe([tersor.Rule("5.weight", tersor.Palettize(bits=2))])
    session = tersor.prepare(student, recipe, optimizer=optimizer, distillation=distillation)
    assert 0.05 in [group["lr"] for group in optimizer.param_groups if group["params"]]
    for _ in range(2):
        outputs = student(INPUTS)
        loss = session.loss(F.cross_entropy(outputs, LABELS), inputs=INPUTS, outputs=outputs)
        soft, hint = distillation.last["soft"], distillation.last[str(config.matches[0])]
        assert torch.allclose(loss, 0.5 * F.cross_entropy(outputs, LABELS) + 0.5 * soft + hint)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        session.step()
    assert not torch.equal(before["projections.0.weight"], distillation.state_dict()["projections.0.weight"])
    compressed = session.finalize()
    assert torch.equal(compressed.state_dict()["5.weight"], student[5].weight)


def test_a_teacher_that_is_no_number_is_named():
    student, teacher, broken = network(2), network(3), network(4)
    with torch.no_grad():
        next(broken.parameters())[0] = torch.nan
    with pytest.raises(CalibrationError, match=r"\d+ of 24 values of the output of teacher 1 are NaN or Inf"):
        Distillation(student, [teacher, broken])(INPUTS, student(INPUTS))
    known = torch.full((6, 4), torch.inf)
    with pytest.raises(CalibrationError, match="24 of 24 values of the output of teacher 0"):
        Distillation(student, teacher)(INPUTS, student(INPUTS), answers=[known])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s, t: Distillation(s, t, 4.0), r"config must be Distill\(.*got 4\.0"),
        (lambda s, t: Distillation(s, t, {}), "config must be Distill"),
        (lambda s, t: Distillation(s, None), "teachers must be an nn.Module or a list of them, got NoneType"),
        (lambda s, t: Distillation(s, t)(INPUTS, s(INPUTS), answers=3), "answers must be a list of tensors"),
        (lambda s, t: Distillation(s, t)(INPUTS, s(INPUTS), answers=s(INPUTS)), "answers must be a list .* Tensor"),
        (lambda s, t: Distillation(s, t)(INPUTS, s(INPUTS), 1.0), r"task_loss must be a tensor .*got 1\.0"),
    ],
)
def test_arguments_of_wrong_types(call, says):
    with pytest.raises(UsageError, match=f"distillation: {says}"):
        call(network(2), network(3))
