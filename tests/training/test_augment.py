"""New samples from few."""

import torch

from tersor.training.augment import default_augment, mirrored, mixed, shifted


def test_pictures_keep_their_pixels():
    g = torch.Generator().manual_seed(0)
    images = torch.arange(2 * 1 * 16 * 16.0).reshape(2, 1, 16, 16).repeat(8, 1, 1, 1)
    flipped = mirrored(images, g)
    kept = (flipped == images).flatten(1).all(1)
    assert 0 < kept.sum() < len(images)
    assert torch.equal(flipped[~kept], images[~kept].flip(3))
    moved = shifted(images, g)
    middles = (moved[:, 0, 8, 8] - images[:, 0, 8, 8]).long()
    rows, columns = torch.div(middles + 2, 16, rounding_mode="floor"), (middles + 2) % 16 - 2
    assert rows.abs().max() <= 2 and columns.abs().max() <= 2 and len(middles.unique()) > 3


def test_mixtures_lie_between():
    g = torch.Generator().manual_seed(1)
    images = torch.rand(20, 3, 4, 4)
    got = mixed(images, g)
    assert got.min() >= images.min() and got.max() <= images.max()
    assert 0 < (got == images).flatten(1).all(1).sum() < 20


def test_other_samples_stay():
    g = torch.Generator().manual_seed(0)
    tokens = {"input_ids": torch.zeros(2, 7, dtype=torch.int64), "attention_mask": torch.ones(2, 7)}
    assert default_augment(tokens, g) is tokens
    features = torch.randn(3, 4)
    assert default_augment(features, g) is features
    images = torch.randn(8, 3, 16, 16)
    before = images.clone()
    assert isinstance(default_augment((images,), g), tuple)
    assert not torch.equal(default_augment({"pixel_values": images}, g)["pixel_values"], images)
    assert torch.equal(images, before)
