"""Features that follow a teacher's."""

import pytest
import torch
from torch import nn

from tersor.errors import MismatchError
from tersor.training import hint_loss, projection


def test_half_the_mean_square():
    student, teacher = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[0.0, 4.0]])
    loss = hint_loss(student, teacher)
    loss.backward()
    assert loss == (1 + 4) / 2 / 2
    assert torch.allclose(student.grad, torch.tensor([[0.5, -1.0]]))


def test_the_larger_picture_is_averaged():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    small = torch.stack(
        [student[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for i in (0, 1) for j in (0, 1)]
    )
    expected = (small.permute(1, 2, 0).reshape(2, 3, 2, 2) - teacher).square().mean() / 2
    assert torch.allclose(hint_loss(student, teacher), expected)
    assert torch.allclose(hint_loss(teacher, student), expected)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 5)), ((2, 7, 3), (2, 7, 5)), ((2, 3, 4, 4), (2, 5, 2, 2))])
def test_projections_map_channels(shapes):
    student, teacher = (torch.randn(shape) for shape in shapes)
    state = torch.get_rng_state()
    learned = projection(student.shape, teacher.shape, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    same = projection(student.shape, teacher.shape, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(learned.parameters(), same.parameters(), strict=True))
    assert torch.isfinite(hint_loss(learned(student), teacher))
    assert sum(p.numel() for p in learned.parameters()) == 3 * 5 + 5


def test_a_projection_learns_what_a_linear_map_can():
    torch.manual_seed(0)
    student = torch.randn(64, 3)
    teacher = student @ torch.randn(3, 5)
    learned = projection(student.shape, teacher.shape)
    optimizer = torch.optim.Adam(learned.parameters(), 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = hint_loss(learned(student), teacher)
        loss.backward()
        optimizer.step()
    assert loss < 0.01 and isinstance(learned, nn.Linear)


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(MismatchError, match=r"\(2, 3, 4, 4\)"):
        projection(torch.Size((2, 3, 4, 4)), torch.Size((2, 5)))
    with pytest.raises(MismatchError, match="tokens"):
        hint_loss(torch.randn(2, 7, 3), torch.randn(2, 8, 3))
