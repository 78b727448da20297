"""Distances of a student from its teacher."""

import pytest
import torch
from torch.nn import functional as F

from tersor.errors import CalibrationError
from tersor.training.distill import default_distance, relative_error, soft_targets


def test_soft_targets_are_the_divergence_times_the_squared_temperature():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    for t in (1.0, 4.0):
        expected = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean") * t * t
        assert torch.allclose(soft_targets(student, teacher, t), expected)
    assert soft_targets(teacher, teacher + 3) < 1e-6
    pictures = soft_targets(student[..., None, None].expand(6, 4, 2, 3), teacher[..., None, None].expand(6, 4, 2, 3))
    assert torch.allclose(pictures, soft_targets(student, teacher))
    assert torch.allclose(soft_targets(student[None], teacher[None]), soft_targets(student, teacher))


def test_relative_error_has_no_unit():
    y = torch.randn(50, 3)
    assert relative_error(y.mean(0).expand(50, 3), y) == pytest.approx(1)
    assert torch.allclose(relative_error(9 * y + 9, 9 * y), relative_error(y + 1, y))


def test_outputs_are_recognised():
    distance = default_distance(1.0)
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    assert distance({"logits": a}, {"logits": b}) == soft_targets(a, b)
    assert distance(a[:, :1], b[:, :1]) == relative_error(a[:, :1], b[:, :1])
    assert default_distance(1.0, classes=False)(a, b) == relative_error(a, b)
    with pytest.raises(CalibrationError, match="shape"):
        distance(a, b[:4])
