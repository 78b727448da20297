import pytest
import torch

from tersor.errors import UsageError
from tersor.quantization import Palettize
from tersor.simulation import Clock, ClusterTerm
from tersor.simulation.cluster_term import means
from tests.simulation.techniques import draw, draw_mask, regress


def test_the_penalty_is_half_the_squared_distance_ramped():
    weight, mask = draw((5, 8)).requires_grad_(), draw_mask((5, 8))
    simulation = ClusterTerm(strength=4.0).simulate(weight, Palettize(2), mask)
    penalty = simulation.penalty(weight, Clock(5, 10))
    penalty.backward()
    table, total = simulation.table[0], 0.0
    for row in range(5):
        for column in range(8):
            w = weight[row, column].item()
            centroid = min(table.tolist(), key=lambda c: abs(c - w))
            total += (w - centroid) ** 2 * bool(mask[row, column])
            wanted = 4.0 * 0.125 * (w - centroid) * bool(mask[row, column])
            assert weight.grad[row, column].item() == pytest.approx(wanted, abs=1e-7)
    assert penalty.item() == pytest.approx(0.5 * 4.0 * 0.125 * total, rel=1e-5)
    assert simulation.penalty(weight, Clock(0, 10)).item() == 0


def test_weights_are_real_in_training_and_shared_in_evaluation():
    weight = draw((5, 8))
    simulation = ClusterTerm().simulate(weight, Palettize(2), None)
    assert simulation(weight) is weight
    assert simulation.eval()(weight).unique().numel() == 4


def test_weights_snap_when_training_ends():
    weight = draw((5, 8))
    simulation = ClusterTerm().simulate(weight, Palettize(2), None)
    before = weight.clone()
    simulation.after_step(weight, None, Clock(9, 10))
    simulation.after_step(weight, None, Clock(10))
    assert torch.equal(weight, before)
    simulation.after_step(weight, None, Clock(10, 10))
    assert torch.equal(weight, simulation.compressed(weight, None).dequantize()) and weight.unique().numel() == 4


@pytest.mark.parametrize("runs", [1, 2])
def test_centroids_move_to_the_means_of_the_kept(runs):
    weight, mask, table = draw((6, 8)), draw_mask((6, 8)), draw((runs, 3), 5).sort(1).values
    table[0, 2] = 9.0  # too far from all
    found = means(weight, mask, table)
    for run in range(runs):
        rows = slice(run * 6 // runs, (run + 1) * 6 // runs)
        values = weight[rows][mask[rows]]
        closest = (values[:, None] - table[run]).abs().argmin(1)
        for k in range(3):
            chosen = values[closest == k]
            wanted = chosen.mean() if len(chosen) else table[run, k]
            assert found[run, k].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_term_is_worth_more_than_clustering_afterwards():
    weight = draw((6, 8), 2, spread=0.3)
    weak, strong = (
        regress(ClusterTerm(strength=s, refit=1).simulate(weight, Palettize(2), None), weight) for s in (1e-9, 5.0)
    )
    assert strong < 0.95 * weak


def test_errors():
    with pytest.raises(UsageError, match="cluster_term: 16 centroids for 12 weights"):
        ClusterTerm().simulate(draw((3, 4)), Palettize(4), None)
    for wrong in ({"strength": 0.0}, {"refit": 0}):
        with pytest.raises(UsageError, match=f"cluster_term: {next(iter(wrong))} must be"):
            ClusterTerm(**wrong)
