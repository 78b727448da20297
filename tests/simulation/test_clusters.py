"""Deep Compression, section 3.3: shared weights, summed gradients."""

import pytest
import torch

from tersor.errors import UsageError
from tersor.quantization import Palettize
from tersor.simulation import Clock, TrainedClusters
from tersor.simulation.clusters import nearest
from tests.simulation.techniques import draw, draw_mask, regress


@pytest.mark.parametrize("runs", [1, 3])
def test_gradients_of_shared_weights_are_summed(runs):
    weight, upstream = draw((6, 9)).requires_grad_(), draw((6, 9), 4, spread=1.0)
    simulation = TrainedClusters().simulate(weight, Palettize(2, runs=runs), None)
    (simulation(weight) * upstream).sum().backward()
    sums = torch.zeros(runs, 4)
    for row in range(6):
        for column in range(9):
            sums[row // (6 // runs), int(simulation.codes[row, column])] += upstream[row, column]
    torch.testing.assert_close(simulation.centroids.grad * simulation.unit, sums)
    assert torch.equal(weight.grad, upstream)


def test_descent_is_the_papers():
    """centroid <- centroid - rate * sum of gradients, whatever units the parameter is counted in."""
    weight, upstream = draw((6, 9)), draw((6, 9), 4, spread=0.1)
    simulation = TrainedClusters().simulate(weight, Palettize(5), None)  # 16 bits a centroid
    before = simulation.table().detach().clone()
    (simulation(weight) * upstream).sum().backward()
    torch.optim.SGD(simulation.parameters(), lr=0.05).step()
    sums = torch.zeros(32).index_add_(0, simulation.codes.flatten().int(), upstream.flatten())
    torch.testing.assert_close(simulation.table().detach(), before - 0.05 * sums, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["exact", "linear", "density", "random"])
def test_first_centroids_are_those_of_the_fit(init):
    weight, mask = draw((6, 9)), draw_mask((6, 9))
    config = Palettize(3, init=init)
    found = TrainedClusters().simulate(weight, config, mask).compressed(weight, mask)
    fitted = config.fit(weight, mask)
    torch.testing.assert_close(found.codebook, fitted.codebook, rtol=2**-8, atol=0)
    assert torch.equal(found.codes[mask], fitted.codes[mask])


def test_centroids_that_cross_are_stored_in_order():
    weight = draw((6, 9))
    simulation = TrainedClusters().simulate(weight, Palettize(2, runs=2), None)
    with torch.no_grad():
        simulation.centroids.copy_(simulation.centroids.flip(1) * 3)
    stored = simulation.compressed(weight, None)
    assert torch.equal(stored.codebook, stored.codebook.sort(1).values)
    assert torch.equal(stored.dequantize(), simulation(weight))


@pytest.mark.parametrize("runs", [1, 2])
def test_nearest(runs):
    weight, table = draw((6, 9)), draw((runs, 5), 3)
    codes = nearest(weight, table)
    for row in range(6):
        apart = (weight[row][:, None] - table[row * runs // 6]).abs()
        assert torch.equal(apart.gather(1, codes[row].long()[:, None])[:, 0], apart.min(1).values)


def test_assignments_are_refreshed_when_it_is_time():
    weight = draw((6, 9))
    for refresh, changes in ((0, []), (3, [3, 6])):
        simulation = TrainedClusters(refresh=refresh).simulate(weight, Palettize(2), None)
        changed = []
        for step in range(7):
            before = simulation.codes.clone()
            simulation.after_step(weight + 0.02 * step, None, Clock(step))
            if not torch.equal(before, simulation.codes):
                changed.append(step)
        assert changed == changes


def test_trained_centroids_reach_a_lower_loss_than_fixed_ones():
    weight = draw((6, 8))
    fixed, trained = (
        regress(TrainedClusters().simulate(weight, Palettize(2), None), weight, own=own) for own in (0.0, 0.1)
    )
    assert trained < 0.85 * fixed


def test_refreshed_assignments_reach_a_lower_loss_than_those_of_other_weights():
    weight = draw((6, 8))
    fixed, refreshed = (
        regress(TrainedClusters(refresh=refresh).simulate(weight, Palettize(2), None), weight) for refresh in (0, 1)
    )
    assert refreshed < 0.5 * fixed


def test_more_centroids_than_weights():
    with pytest.raises(UsageError, match=r"clusters: 16 centroids for 12 weights that are kept, of the shape \(3, 4\)"):
        TrainedClusters().simulate(draw((3, 4)), Palettize(4), None)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0] = True
    with pytest.raises(UsageError, match="8 centroids for 4 weights"):
        TrainedClusters().simulate(draw((3, 4)), Palettize(3), mask)
    with pytest.raises(UsageError, match="24 centroids for 12 weights"):
        TrainedClusters().simulate(draw((3, 4)), Palettize(3, runs=3), None)
