"""SqueezeNet 1.1 (Iandola et al. 2016): fire modules; a convolution is the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """`fires`: (squeezed, expanded) of each fire module, or M for max-pooling."""

    def __init__(self, first: int, fires: Sequence[Sequence[int] | str], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, first, 3, 2), nn.ReLU(inplace=True)]
        inputs = first
        for step in fires:
            if step == "M":
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            layers.append(Fire(inputs, *step))
            inputs = 2 * step[1]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5), nn.Conv2d(inputs, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


_FIRES = ("M", (16, 64), (16, 64), "M", (32, 128), (32, 128), "M", (48, 192), (48, 192), (64, 256), (64, 256))

ENTRIES = [
    Entry(
        "squeezenet",
        lambda: SqueezeNet(8, ("M", (8, 12), (8, 12), "M", (12, 16)), 10),
        pictures(48),
        lambda: SqueezeNet(64, _FIRES, 1000),
        pictures(128, batch=1),
        removed=0.6,
        parameters=1_235_496,
    )
]
