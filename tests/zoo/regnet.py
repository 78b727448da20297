"""RegNetX and RegNetY (Radosavovic et al. 2020): bottlenecks of grouped convolutions; Y has squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures


class SE(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.f_ex = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.f_ex(self.avg_pool(x))


class BottleneckTransform(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int, ratio: float | None) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.a_bn = nn.BatchNorm2d(outputs)
        self.b = nn.Conv2d(outputs, outputs, 3, stride, 1, groups=outputs // group_width, bias=False)
        self.b_bn = nn.BatchNorm2d(outputs)
        self.se = SE(outputs, round(inputs * ratio)) if ratio else None
        self.c = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.c_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a_bn(self.a(x)))
        x = torch.relu(self.b_bn(self.b(x)))
        if self.se is not None:
            x = self.se(x)
        return self.c_bn(self.c(x))


class ResBottleneckBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int, ratio: float | None) -> None:
        super().__init__()
        self.proj = None
        if inputs != outputs or stride != 1:
            self.proj = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(outputs)
        self.f = BottleneckTransform(inputs, outputs, stride, group_width, ratio)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.proj is not None:
            return self.relu(self.bn(self.proj(x)) + self.f(x))
        return self.relu(x + self.f(x))


class RegNet(nn.Module):
    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], group_width: int, ratio: float | None, classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        stages = []
        inputs = 32
        for width, depth in zip(widths, depths, strict=True):
            blocks = []
            for i in range(depth):
                blocks.append(ResBottleneckBlock(inputs, width, 2 if i == 0 else 1, group_width, ratio))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.trunk = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.trunk(self.stem(x)))
        return self.fc(x.flatten(start_dim=1))


ENTRIES = [
    Entry(
        "regnet_x",
        lambda: RegNet((16, 32), (1, 2), 8, None, 10),
        pictures(32),
        lambda: RegNet((32, 64, 160, 400), (1, 2, 7, 12), 16, None, 1000),
        pictures(128, batch=1),
        removed=0.4,
        parameters=5_495_976,
    ),
    Entry(
        "regnet_y",
        lambda: RegNet((16, 32), (1, 2), 8, 0.25, 10),
        pictures(32),
        lambda: RegNet((48, 104, 208, 440), (1, 3, 6, 6), 8, 0.25, 1000),
        pictures(128, batch=1),
        removed=0.4,
        parameters=4_344_144,
    ),
]
