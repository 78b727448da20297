"""The factor of any H."""

import pytest
import torch

from tersor.calibration.damping import factorize
from tersor.calibration.layout import Layout
from tersor.calibration.statistics import LayerStatistics


def statistics_of(x, rows=3, layout=None, shape=None):
    """Statistics of inputs x (G, n, N), one a sample, of a weight of `shape` (by default a matrix)."""
    groups, count, inputs = x.shape
    return LayerStatistics(
        shape or torch.Size((groups * rows, inputs)),
        layout or Layout(groups=groups),
        count,
        torch.full((groups,), count),
        (x.transpose(1, 2) @ x).float(),
        x.double().sum(1),
        None,
    )


def _inverse(factor):
    upper = factor.feedback * factor.scale[..., None]
    return upper.transpose(1, 2) @ upper


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(11)


def test_the_factor_is_of_the_inverse():
    s = statistics_of(torch.randn(2, 40, 9))
    factor = factorize(s, 0.01)
    h = s.moment.double() / 40
    ridge = 0.01 * h.diagonal(dim1=1, dim2=2).mean(1)
    damped = h + ridge[:, None, None] * torch.eye(9)
    torch.testing.assert_close(_inverse(factor) @ damped, torch.eye(9, dtype=torch.float64).expand(2, 9, 9))
    assert torch.equal(factor.feedback, factor.feedback.triu())
    assert torch.equal(factor.feedback.diagonal(dim1=1, dim2=2), torch.ones(2, 9, dtype=torch.float64))
    torch.testing.assert_close(factor.mean_scale().log() * 18, -torch.logdet(damped) / 1)
    torch.testing.assert_close(factor.precision(), factor.scale**-2)


@pytest.mark.parametrize("damping", [0.0, 1e-9, 0.01])
def test_any_moment_has_a_factor(damping):
    x = torch.randn(6, 30, 8)
    x[0] = 0  # nothing seen
    x[1, :, 3] = 0  # a dead input
    x[2, :, 5] = x[2, :, 4]  # twins
    x[3, 2:] = 0  # rank 2
    x[4] *= 1e-15
    x[5, :, :4] *= 1e12
    s = statistics_of(x)
    factor = factorize(s, damping)
    for value in (factor.feedback, factor.scale):
        assert torch.isfinite(value).all()
    assert (factor.scale > 0).all()
    # A dead input is on its own.
    others = torch.arange(8) != 3
    assert (factor.feedback[1, 3, others] == 0).all()
    assert (factor.feedback[1, others, 3] == 0).all()
    assert torch.equal(factor.feedback[0], torch.eye(8, dtype=torch.float64))


def test_a_moment_that_is_not_positive_is_damped_until_it_is():
    s = statistics_of(torch.randn(1, 30, 6))
    s.moment[0] -= 5 * torch.eye(6) * s.moment[0].diagonal().mean() / 6
    factor = factorize(s)
    assert torch.isfinite(factor.feedback).all()
    assert (factor.scale > 0).all()


def test_diagonal_moments():
    counts = torch.tensor([[4.0, 0.0, 2.0]])
    layout = Layout(transposed=True, diagonal=True)
    s = LayerStatistics(torch.Size((3, 2)), layout, 2, torch.tensor([6]), counts, counts.double(), None)
    factor = factorize(s, 0.1)
    assert factor.feedback is None
    torch.testing.assert_close(factor.precision(), torch.tensor([[2.1, 0.1, 1.1]], dtype=torch.float64))
    empty = LayerStatistics(torch.Size((3, 2)), layout, 0, torch.tensor([0]), counts * 0, counts.double() * 0, None)
    assert factorize(empty).precision().tolist() == [[1, 1, 1]]
