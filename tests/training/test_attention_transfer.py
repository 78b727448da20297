"""Maps of attention against the paper's sums, place by place."""

import pytest
import torch

from tersor.errors import MismatchError
from tersor.training import attention_loss, attention_map


def slow_map(features):
    """Of one sample (C, H, W)."""
    c, h, w = features.shape
    sums = torch.tensor([sum(float(features[k, i, j]) ** 2 for k in range(c)) for i in range(h) for j in range(w)])
    return sums / sums.square().sum().sqrt()


def test_maps_and_their_distance():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 2, 3), torch.randn(3, 6, 2, 3)
    own, wanted = (torch.stack([slow_map(x) for x in features]) for features in (student, teacher))
    assert torch.allclose(attention_map(student), own, atol=1e-6)
    assert torch.allclose(attention_loss(student, teacher), ((own - wanted) ** 2).sum(1).mean() / 2, atol=1e-6)
    assert torch.allclose(attention_loss(student, teacher), 1 - (own * wanted).sum(1).mean(), atol=1e-6)


def test_only_where_counts():
    features = torch.rand(2, 3, 4, 4)
    assert attention_loss(features, 5 * features) < 1e-6
    assert attention_loss(features, -features[:, [2, 0, 1]]) < 1e-6
    away = torch.zeros(1, 1, 2, 2)
    away[..., 0, 0] = 1
    assert attention_loss(away, away.flip(2)) == pytest.approx(1)


def test_tokens_are_places():
    pictures = torch.randn(2, 3, 4, 5)
    tokens = pictures.flatten(2).transpose(1, 2)
    assert torch.allclose(attention_map(tokens), attention_map(pictures), atol=1e-6)


def test_gradients_are_finite_and_right():
    student = torch.rand(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    teacher = torch.rand(2, 5, 2, 2)
    loss = attention_loss(student, teacher)
    loss.backward()
    step = torch.zeros_like(student)
    step[0, 1, 0, 1] = 1e-2
    with torch.no_grad():
        slope = (attention_loss(student + step, teacher) - attention_loss(student - step, teacher)) / 2e-2
    assert student.grad[0, 1, 0, 1] == pytest.approx(float(slope), rel=0.02, abs=1e-5)
    dead = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_loss(dead, teacher).backward()
    assert torch.isfinite(dead.grad).all()


def test_features_without_places_are_refused():
    with pytest.raises(MismatchError, match=r"\(2, 3\)"):
        attention_map(torch.randn(2, 3))
    with pytest.raises(MismatchError, match="same places"):
        attention_loss(torch.randn(2, 5, 3), torch.randn(2, 6, 3))
    with pytest.raises(MismatchError, match="same places"):
        attention_loss(torch.randn(2, 6, 3), torch.randn(2, 5, 2, 3))
