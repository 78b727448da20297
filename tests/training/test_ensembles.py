"""Several teachers as one."""

import pytest
import torch

from tersor.errors import MismatchError
from tersor.training import ensemble_logits, ensemble_values, soft_targets


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(5, 4, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_the_mean_of_probabilities(logits, t):
    mean = ensemble_logits(logits, t, "probabilities")
    for row in range(5):
        expected = sum(torch.exp(z[row] / t) / torch.exp(z[row] / t).sum() for z in logits) / 3
        assert torch.allclose((mean[row] / t).softmax(0), expected, atol=1e-6)


def test_the_mean_of_logits(logits):
    assert torch.allclose(ensemble_logits(logits, 4.0, "logits"), (logits[0] + logits[1] + logits[2]) / 3)
    assert torch.allclose(ensemble_values(logits), (logits[0] + logits[1] + logits[2]) / 3)


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_one_teacher_and_equal_teachers_are_that_teacher(logits, mean):
    one = logits[0]
    assert torch.equal(ensemble_logits([one], 2.0, mean), one)
    assert ensemble_logits([one.half()]).dtype == torch.float32
    assert soft_targets(one, ensemble_logits([one, one], 2.0, mean), 2.0) < 1e-6


def test_classes_of_pictures_and_tokens(logits):
    flat = ensemble_logits(logits, 2.0)
    pictures = ensemble_logits([z[..., None, None].expand(5, 4, 2, 3) for z in logits], 2.0)
    assert torch.allclose(pictures[..., 0, 0], flat, atol=1e-6)
    assert torch.allclose(ensemble_logits([z[None] for z in logits], 2.0)[0], flat, atol=1e-6)


def test_confident_teachers_do_not_overflow():
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert torch.isfinite(ensemble_logits([sure, -sure], 1.0)).all()


def test_other_shapes_are_refused(logits):
    with pytest.raises(MismatchError, match="teacher 1"):
        ensemble_logits([logits[0], logits[1][:, :3]])
    with pytest.raises(MismatchError, match="teacher 2"):
        ensemble_values([logits[0], logits[1], logits[2][:4]])
