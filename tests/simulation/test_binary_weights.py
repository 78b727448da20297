import pytest
import torch

from tersor.quantization import Binarize
from tersor.simulation import BinaryWeights, Clock
from tests.simulation.techniques import draw, draw_mask, regress


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_scales_are_mean_magnitudes_of_the_kept(granularity):
    weight, mask = draw((5, 40)), draw_mask((5, 40))
    stored = BinaryWeights().simulate(weight, Binarize(granularity), mask).compressed(weight, mask)
    rows = zip(weight, mask, strict=True) if granularity == "channel" else [(weight, mask)]
    wanted = torch.tensor([[w[m].abs().mean()] for w, m in rows])
    torch.testing.assert_close(stored.scale, wanted, rtol=2**-8, atol=0)
    assert torch.equal(stored.signs, weight >= 0)


def test_gradients():
    """a g_i [|W_i| <= 1] + sign(W_i) / n * sum of g_j sign(W_j) over the row."""
    weight, upstream = (draw((3, 7)) * 8).requires_grad_(), draw((3, 7), 1)
    simulation = BinaryWeights().simulate(weight.detach(), Binarize(), None)
    (simulation(weight) * upstream).sum().backward()
    for row in range(3):
        w, g = weight[row].detach(), upstream[row]
        scale = simulation.scales(weight)[row].detach()
        wanted = scale * g * (w.abs() <= 1) + w.sign() / 7 * (g * w.sign()).sum()
        torch.testing.assert_close(weight.grad[row], wanted)
    assert (weight.abs() > 1).any()


def test_what_is_stored_is_clipped_and_masks_are_followed():
    weight, mask = draw((3, 7)) * 30, draw_mask((3, 7))
    simulation = BinaryWeights().simulate(weight, Binarize(), None)
    simulation.after_step(weight, mask, Clock(1))
    assert weight.abs().max() == 1
    fitted = Binarize().fit(weight, mask)
    torch.testing.assert_close(simulation.compressed(weight, mask).scale, fitted.scale, rtol=2**-7, atol=0)


def test_training_is_worth_more_than_binarizing():
    weight = draw((6, 8), 2, spread=0.3)  # the weights that the targets come from
    untrained, trained = (
        regress(BinaryWeights().simulate(weight, Binarize(), None), weight, steps) for steps in (0, 60)
    )
    assert trained < 0.8 * untrained
