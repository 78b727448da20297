"""Stages of rate-aware training on a tiny network: what dies goes, what is saved is what was trained."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersor
from benchmarks.ratetraining import Pictures, Stage, Trainer, Weights, compressed, ordered, strongest, trimmed
from tersor.shrinking.dead import dead_units


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc1 = nn.Linear(6 * 9, 12)
        self.fc2 = nn.Linear(12, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(256, 1, 8, 8, generator=generator)
    return images, (images[:, 0, :4].sum((1, 2)) > 0).long()


@pytest.fixture(scope="module")
def trainer(data):
    return Trainer(Tiny, Pictures(data, shifts=False))


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    return Weights(dict(Tiny().state_dict()))


@pytest.fixture(scope="module")
def trained(trainer, start):
    return trainer.run(start, Stage(6, rate=1e-2, batch=32, multiplier=2e-3, shifts=False), 0)


def size(weights: Weights) -> int:
    file = io.BytesIO()
    tersor.save(compressed(weights), file)
    return len(file.getvalue())


def test_bytes_fall_and_shapes_stay(trainer, start, trained):
    float_only = trainer.run(start, Stage(1, rate=1e-2, batch=32, multiplier=1e-9, shifts=False), 0)
    assert size(trained) < size(float_only)
    assert {name: tensor.shape for name, tensor in trained.tensors.items()} == {
        name: tensor.shape for name, tensor in Tiny().state_dict().items()
    }


def test_the_file_gives_the_trained_network(trainer, data, trained):
    file = io.BytesIO()
    tersor.save(compressed(trained), file)
    file.seek(0)
    model = Tiny().eval()
    model.load_state_dict(tersor.load(file))
    assert torch.equal(model(data[0]), trainer.quantized(trained)(data[0]))


def test_training_is_the_same_twice_and_goes_on_from_its_tensors(trainer, start, trained):
    stage = Stage(6, rate=1e-2, batch=32, multiplier=2e-3, shifts=False)
    again = trainer.run(start, stage, 0)
    assert all(torch.equal(again.flat()[name], tensor) for name, tensor in trained.flat().items())
    kept = Weights.of(trained.flat())
    assert kept.log_steps.keys() == trained.log_steps.keys() and kept.tensors.keys() == trained.tensors.keys()


def test_units_in_another_order_are_the_same_network(trainer, data, trained):
    other = ordered(trainer, trained)
    one, two = (trainer.quantized(weights)(data[0]) for weights in (trained, other))
    assert torch.allclose(one, two, atol=1e-5)
    assert any(not torch.equal(other.tensors[name], tensor) for name, tensor in trained.tensors.items())


def test_the_weights_nearest_to_zero_are_trimmed(trainer, trained):
    before, after = (
        {entry.name: entry.tensor.codes.flatten() for entry in compressed(weights).entries}
        for weights in (trained, trimmed(trained, 0.25))
    )
    gone = {name: (codes != 0) & (after[name] == 0) for name, codes in before.items()}
    alive = sum(int((codes != 0).sum()) for codes in before.values())
    assert sum(int(flags.sum()) for flags in gone.values()) == round(0.25 * alive)
    assert all(torch.equal(before[name][~flags], after[name][~flags]) for name, flags in gone.items())
    assert all(before[name][flags].abs().max() == 1 for name, flags in gone.items() if flags.any())


def test_the_strongest_units_stay(trainer, start):
    left = strongest(trainer, start, {"conv.weight": 4, "fc1.weight": 5})
    model = Tiny()
    model.load_state_dict(dict(left.tensors))
    dead = dead_units(model, trainer.groups)
    assert len(dead["conv.weight"]) == 2 and len(dead["fc1.weight"]) == 7
    worth = start.tensors["fc2.weight"].norm(dim=0) * start.tensors["fc1.weight"].norm(dim=1)
    assert set(dead["fc1.weight"]) == set(worth.argsort()[:7].tolist())


def test_dead_units_are_not_trained(trainer, start):
    left = strongest(trainer, start, {"conv.weight": 4})
    after = trainer.run(left, Stage(1, rate=1e-2, batch=32, multiplier=1e-6, shifts=False), 0)
    dead = torch.nonzero(left.tensors["conv.bias"] == 0).reshape(-1)
    assert len(dead) == 2 and not after.tensors["conv.weight"][dead].any()


def test_pictures_move_by_a_pixel_and_the_teacher_sees_the_same():
    images = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)

    class Sum(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    pictures = Pictures((images, torch.tensor([0, 1])), True, Sum())
    batch, labels, logits = pictures.batch(torch.tensor([1, 0]), torch.Generator().manual_seed(3))
    assert batch.shape == images.shape and labels.tolist() == [1, 0]
    assert torch.equal(logits, batch.flatten(1))
    still, _, none = Pictures((images, torch.tensor([0, 1])), False).batch(torch.tensor([1]), torch.Generator())
    assert torch.equal(still[0], images[1]) and none is None
