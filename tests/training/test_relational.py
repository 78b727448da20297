"""Relations between samples, against loops over all pairs and triples."""

import itertools

import pytest
import torch

from tersor.errors import MismatchError
from tersor.training import angle_loss, distance_loss


def huber(a, b):
    apart = abs(float(a) - float(b))
    return apart**2 / 2 if apart <= 1 else apart - 0.5


def slow_distance_loss(student, teacher):
    pairs = list(itertools.permutations(range(len(student)), 2))

    def of(x):
        lengths = [float((x[i] - x[j]).norm()) for i, j in pairs]
        return [length / (sum(lengths) / len(pairs)) for length in lengths]

    return sum(map(huber, of(student), of(teacher))) / len(pairs)


def slow_angle_loss(student, teacher):
    triples = list(itertools.permutations(range(len(student)), 3))

    def of(x):
        return [torch.cosine_similarity(x[i] - x[j], x[k] - x[j], 0) for i, j, k in triples]

    return sum(map(huber, of(student), of(teacher))) / len(triples)


@pytest.mark.parametrize(("loss", "slow"), [(distance_loss, slow_distance_loss), (angle_loss, slow_angle_loss)])
def test_all_pairs_and_triples(loss, slow):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 7)
    student[4] *= 20  # beyond the square part of the Huber loss
    assert float(loss(student, teacher)) == pytest.approx(slow(student, teacher), rel=1e-4)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_what_relations_do_not_see(loss):
    torch.manual_seed(0)
    teacher = torch.randn(6, 2, 3)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert loss(4 * teacher.flatten(1) @ turn + 3, teacher) < 1e-6
    assert loss(torch.randn(6, 4), teacher) > 0.01


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_gradients(loss):
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    loss(student, teacher).backward()
    step = torch.zeros_like(student)
    step[1, 2] = 1e-2
    with torch.no_grad():
        slope = (loss(student + step, teacher) - loss(student - step, teacher)) / 2e-2
    assert float(student.grad[1, 2]) == pytest.approx(float(slope), rel=0.02, abs=1e-4)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_equal_samples_have_finite_gradients(loss):
    student = torch.ones(4, 3, requires_grad=True)
    loss(student, torch.randn(4, 3)).backward()
    assert torch.isfinite(student.grad).all()
    twins = torch.randn(2, 3).repeat(2, 1).requires_grad_()
    loss(twins, torch.randn(4, 3)).backward()
    assert torch.isfinite(twins.grad).all()


def test_batches_without_relations():
    student = torch.randn(2, 3, requires_grad=True)
    assert angle_loss(student, torch.randn(2, 3)) == 0
    assert distance_loss(student[:1], torch.randn(1, 3)) == 0
    angle_loss(student, torch.randn(2, 3)).backward()
    assert not student.grad.any()


def test_other_samples_are_refused():
    for loss in (distance_loss, angle_loss):
        with pytest.raises(MismatchError, match="same samples"):
            loss(torch.randn(4, 3), torch.randn(5, 3))
