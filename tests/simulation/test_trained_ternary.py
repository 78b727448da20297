import pytest
import torch

from tersor.errors import UsageError
from tersor.quantization import Ternarize
from tersor.simulation import Clock, TrainedTernary
from tests.simulation.techniques import draw, draw_mask, regress


def test_first_scales_are_the_means_beyond_the_threshold():
    weight, mask = draw((4, 30)), draw_mask((4, 30))
    simulation = TrainedTernary(threshold=0.2).simulate(weight, Ternarize(), mask)
    positive, negative = simulation.scales()
    for row in range(4):
        kept = weight[row][mask[row]]
        bound = 0.2 * kept.abs().max()
        assert positive[row].item() == pytest.approx(kept[kept > bound].mean().item(), rel=2**-8)
        beyond = -kept[kept < -bound] if (kept < -bound).any() else weight[row].abs()
        assert negative[row].item() == pytest.approx(beyond.mean().item(), rel=2**-8)


def test_gradients():
    """Equations 7 and 8 of Zhu et al. 2017, weight by weight."""
    weight, upstream = draw((3, 9)).requires_grad_(), draw((3, 9), 1)
    simulation = TrainedTernary(threshold=0.3).simulate(weight, Ternarize("tensor"), None)
    with torch.no_grad():
        simulation.positive.fill_(2.0)
    (simulation(weight) * upstream).sum().backward()
    bound, positive, negative = 0.3 * weight.detach().abs().max(), 0.0, 0.0
    for w, g, found in zip(weight.flatten(), upstream.flatten(), weight.grad.flatten(), strict=True):
        if w > bound:
            positive += g
            assert found == pytest.approx(2 * g.item(), rel=0.01)
        elif w < -bound:
            negative -= g
            assert found == pytest.approx(g.item(), rel=0.01)
        else:
            assert found == g
    torch.testing.assert_close(simulation.positive.grad * simulation.positive_unit, positive.reshape(1, 1))
    torch.testing.assert_close(simulation.negative.grad * simulation.negative_unit, negative.reshape(1, 1))


def test_scales_stay_positive():
    simulation = TrainedTernary().simulate(draw((3, 9)), Ternarize(), None)
    with torch.no_grad():
        simulation.positive.fill_(-1.0)
        simulation.negative.fill_(-1.0)
        simulation.after_step(draw((3, 9)), None, Clock(1))
    assert all((scale > 0).all() for scale in simulation.scales())


def test_rows_of_one_sign():
    weight = draw((3, 9)).abs()
    simulation = TrainedTernary().simulate(weight, Ternarize(), None)
    assert all((scale > 0).all() and scale.isfinite().all() for scale in simulation.scales())
    assert torch.equal(simulation(weight), simulation.compressed(weight, None).dequantize())


def test_trained_scales_reach_a_lower_loss_than_fixed_ones():
    weight = draw((6, 8), spread=0.1)
    fixed, trained = (
        regress(TrainedTernary().simulate(weight, Ternarize(), None), weight, own=own) for own in (0.0, 0.02)
    )
    assert trained < 0.8 * fixed


def test_errors():
    with pytest.raises(UsageError, match=r"trained_ternary: threshold must be a number from 0.0 up to 1.0"):
        TrainedTernary(threshold=1.5)
