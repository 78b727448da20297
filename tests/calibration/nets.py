"""Small networks and slow references for the tests of calibration."""

import torch
from torch import nn


def squares(output, generator):
    """An objective that needs no draws: half the squared output."""
    return output.square().sum() / 2


def explicit_moment(module, x, layout):
    """H of a layer whose output is one product, from the derivatives of each output by its weight."""
    weight = module.weight
    y = module(x)
    groups, rows, inputs = layout.shape(weight.shape)
    channel_dim = y.dim() - 1 if isinstance(module, nn.Linear) else 1
    by_channel = y.movedim(channel_dim, 0)
    moment = torch.zeros(groups, inputs, inputs, dtype=torch.float64)
    total = torch.zeros(groups, inputs, dtype=torch.float64)
    count = 0
    for group in range(groups):
        outputs = by_channel[group * rows].reshape(-1)
        count = outputs.numel()
        for out in outputs:
            (g,) = torch.autograd.grad(out, weight, retain_graph=True)
            vector = layout.matrices(g)[group, 0].double()
            moment[group] += torch.outer(vector, vector)
            total[group] += vector
    return moment, total, count


def explicit_gradient(model, batches, get, layout, objective=squares):
    """Squared row gradients, one sample and one backward pass at a time: (G, R)."""
    model.eval()
    weight = get(model)
    total = 0.0
    for batch in batches:
        for i in range(len(batch)):
            loss = objective(model(batch[i : i + 1]), None)
            (g,) = torch.autograd.grad(loss, weight)
            total = total + layout.matrices(g).double().square().sum(2)
    return total
