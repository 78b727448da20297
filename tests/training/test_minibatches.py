"""Samples cut for training."""

import torch

from tersor.training.minibatches import held_out, shuffled


def test_every_sample_is_on_one_side():
    samples = [torch.arange(10.0)[:, None], (torch.arange(10.0, 16.0)[:, None], torch.zeros(6))]
    train, held = held_out(samples, 0.25)
    first = [b if isinstance(b, torch.Tensor) else b[0] for b in train + held]
    assert torch.equal(torch.cat(first).sort(0).values, torch.arange(16.0)[:, None])
    assert sum(len(b if isinstance(b, torch.Tensor) else b[0]) for b in held) == 4
    g = torch.Generator().manual_seed(0)
    seen = [p if isinstance(p, torch.Tensor) else p[0] for p in shuffled(train, 2, g)]
    assert torch.equal(torch.cat(seen).sort(0).values, torch.cat(first[:2]).sort(0).values)
    assert not torch.equal(torch.cat(seen), torch.cat(first[:2]))


def test_batches_that_cannot_be_cut_go_as_a_whole():
    samples = [{"x": torch.full((3, 1), float(i)), "flag": True} for i in range(4)]
    train, held = held_out(samples, 0.25)
    assert [float(b["x"][0]) for b in train + held] == [0, 1, 2, 3] and len(held) == 1
    assert sum(1 for _ in shuffled(train, 2, torch.Generator())) == 3


def test_one_sample_is_on_both_sides():
    train, held = held_out(torch.ones(1, 4), 0.5)
    assert len(train) == len(held) == 1
