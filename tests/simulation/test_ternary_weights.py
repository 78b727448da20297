import pytest
import torch

from tersor.quantization import Ternarize
from tersor.simulation import Clock, TernaryWeights
from tersor.simulation.ternary_weights import optimal_factor
from tests.simulation.techniques import draw, draw_mask, regress


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("rule", ["twn", "optimal"])
def test_it_begins_at_the_fit(granularity, rule):
    weight, mask = draw((4, 50)), draw_mask((4, 50))
    config = Ternarize(granularity, rule)
    stored, fitted = TernaryWeights().simulate(weight, config, mask).compressed(weight, mask), config.fit(weight, mask)
    assert torch.equal(stored.codes[mask], fitted.codes[mask])
    torch.testing.assert_close(stored.scale, fitted.scale, rtol=2**-7, atol=0)


def test_thresholds_and_scales_follow_the_weights():
    simulation = TernaryWeights().simulate(draw((4, 50)), Ternarize("tensor", "twn"), None)
    weight, mask = draw((4, 50), 3, spread=5.0), draw_mask((4, 50))
    simulation.after_step(weight, mask, Clock(1))
    found = simulation(weight)
    threshold = 0.7 * weight[mask].abs().mean()
    assert torch.equal(found != 0, weight.abs() > threshold)
    wanted = weight[mask & (weight.abs() > threshold)].abs().mean()
    assert found.max().item() == pytest.approx(wanted.item(), rel=2**-8)


def test_the_gradient_is_passed_on():
    weight, upstream = draw((4, 6)).requires_grad_(), draw((4, 6), 1)
    (TernaryWeights().simulate(weight, Ternarize(), None)(weight) * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)


def test_factors_of_rows_without_weights():
    zero = torch.zeros(5)
    assert optimal_factor(zero, torch.ones(5, dtype=torch.bool)) == pytest.approx(0.7)
    assert optimal_factor(draw((5,)), torch.zeros(5, dtype=torch.bool)) == pytest.approx(0.7)
    equal = torch.full((5,), 0.25)
    assert 0 < optimal_factor(equal, torch.ones(5, dtype=torch.bool)) < 1


def test_training_is_worth_more_than_ternarizing():
    weight = draw((6, 8), 2, spread=0.3)
    untrained, trained = (
        regress(TernaryWeights().simulate(weight, Ternarize(), None), weight, steps) for steps in (0, 60)
    )
    assert trained < 0.8 * untrained
