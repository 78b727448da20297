"""MNIST and the two networks of LeCun et al. 1998 that papers on pruning start from."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sources import data_file
from benchmarks.training import Images, Split, divided

VALIDATION = 5_000
"""Training images kept for choices."""


class LeNet300(nn.Module):
    """LeNet-300-100: 266,200 weights. Images (N, 1, 28, 28) -> logits (N, 10). `hidden`: width of the two layers."""

    def __init__(self, hidden: tuple[int, int] = (300, 100)) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], 10)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.xavier_normal_(layer.weight)  # as Frankle & Carbin do
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class LeNet5(nn.Module):
    """LeNet-5 in the form that Han et al. 2015 prune: 430,500 weights. (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def mnist() -> Split | None:
    """55,000 images to train on, 5,000 to choose on, 10,000 to test on; None where they are missing."""
    train, test = _part("train"), _part("t10k")
    if train is None or test is None:
        return None
    return Split(*divided(train, VALIDATION), test)


def digits() -> Split:
    """The 1,797 8x8 digits of scikit-learn at MNIST's size: for short runs, which prove no number."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float()[:, None] / 16
    images = F.pad(F.interpolate(images, size=(24, 24), mode="nearest"), (2, 2, 2, 2))
    rest, test = divided(((images - images.mean()) / images.std(), torch.from_numpy(raw.target).long()), 300)
    return Split(*divided(rest, 300), test)


def _part(name: str) -> Images | None:
    images, labels = data_file(f"mnist/{name}-images-idx3-ubyte.gz"), data_file(f"mnist/{name}-labels-idx1-ubyte.gz")
    if images is None or labels is None:
        return None
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return (torch.from_numpy(pixels.copy()).float() / 255 - 0.1307) / 0.3081, torch.from_numpy(classes.copy()).long()
