"""What tests of all techniques share: each technique with representations it trains, and small weights."""

import torch

from tersor.quantization import Binarize, FixedPoint, Palettize, Quantize, Ternarize
from tersor.simulation import (
    BinaryConnect,
    BinaryWeights,
    Clock,
    ClusterTerm,
    LearnedSteps,
    PowerSteps,
    RateAware,
    TernaryWeights,
    TrainedClusters,
    TrainedTernary,
)

PAIRS = [
    (LearnedSteps(), Quantize(8)),
    (LearnedSteps(), Quantize(2, granularity="tensor")),
    (LearnedSteps(), Quantize(4, granularity="group", group_size=5)),
    (LearnedSteps(), Quantize(3, symmetric=False)),
    (LearnedSteps(), Quantize(12, symmetric=False, granularity="group", group_size=4)),
    (LearnedSteps(init="mean"), Quantize(4)),
    (PowerSteps(), FixedPoint(4)),
    (PowerSteps(), FixedPoint(10, granularity="channel")),
    (PowerSteps(), FixedPoint(5, fraction=3)),
    (RateAware(), Quantize(8, granularity="tensor")),
    (TrainedClusters(), Palettize(2)),
    (TrainedClusters(refresh=2), Palettize(1, runs=3)),
    (ClusterTerm(), Palettize(2)),
    (ClusterTerm(refit=1), Palettize(1, init="linear")),
    (BinaryConnect(), Binarize("tensor")),
    (BinaryConnect(stochastic=True, magnitude="one"), Binarize()),
    (BinaryWeights(), Binarize()),
    (BinaryWeights(), Binarize("tensor")),
    (TernaryWeights(), Ternarize()),
    (TernaryWeights(), Ternarize("tensor", "twn")),
    (TrainedTernary(), Ternarize("tensor")),
    (TrainedTernary(threshold=0.3), Ternarize()),
]
"""(training, representation)."""

SHAPES = [(24,), (5, 7), (6, 3, 2, 2), (4, 1, 5)]


def named(pair):
    training, representation = pair
    return f"{training.name}-{representation.name}-" + "-".join(
        str(v) for v in list(representation.to_dict().values())[1:]
    )


def draw(shape, seed=0, dtype=torch.float32, spread=0.1):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)


def draw_mask(shape, seed=0, density=0.7):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    mask.reshape(-1)[:12] = True  # as many as there are centroids, at least
    return mask


def regress(simulation, weight, steps=60, rate=0.02, own=0.02):
    """Loss of a linear layer after training on what another one gives; own: rate of the simulation's parameters.

    Inputs are correlated, so that errors of weights can make good for each other.
    """
    x = draw((40, weight.shape[1]), 1, spread=1.0) + 2 * draw((40, 1), 5, spread=1.0)
    wanted = x @ draw(weight.shape, 2, spread=0.3).T
    stored = torch.nn.Parameter(weight.clone())
    groups = [{"params": [stored], "lr": rate}, {"params": list(simulation.parameters()), "lr": own}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(steps, 1))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = (x @ simulation(stored).T - wanted).square().mean()
        penalty = simulation.penalty(stored, Clock(step, steps))
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        decay.step()
        with torch.no_grad():
            simulation.after_step(stored, None, Clock(step, steps))
    found = simulation.compressed(stored.detach(), None).dequantize()
    return float((x @ found.T - wanted).square().mean())
