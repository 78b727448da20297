"""GoogLeNet (Szegedy et al. 2015) with batch norms: four branches and their concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.entry import Entry, pictures

Plan = Sequence[Sequence[int] | str]
_PLAN: Plan = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    "M",
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    "M",
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""1x1; reduction, 3x3; reduction, 5x5; projection of the pool (table 1). M: max-pooling."""
_SMALL: Plan = ((8, 8, 12, 4, 8, 8), "M", (12, 8, 16, 4, 8, 8))


class BasicConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    def __init__(self, inputs: int, sizes: Sequence[int]) -> None:
        super().__init__()
        one, reduced3, three, reduced5, five, pooled = sizes
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, reduced3, 1), BasicConv2d(reduced3, three, 3, 1, 1))
        # 3x3 where the paper has 5x5, as the published weights do.
        self.branch3 = nn.Sequential(BasicConv2d(inputs, reduced5, 1), BasicConv2d(reduced5, five, 3, 1, 1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self, plan: Plan, stem: Sequence[int], classes: int) -> None:
        super().__init__()
        first, second, inputs = stem
        self.conv1 = BasicConv2d(3, first, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = BasicConv2d(first, second, 1)
        self.conv3 = BasicConv2d(second, inputs, 3, 1, 1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        modules: list[nn.Module] = []
        for step in plan:
            if step == "M":
                modules.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            modules.append(Inception(inputs, step))
            inputs = step[0] + step[2] + step[4] + step[5]
        self.inceptions = nn.Sequential(*modules)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.avgpool(self.inceptions(x))
        return self.fc(self.dropout(torch.flatten(x, 1)))


ENTRIES = [
    Entry(
        "googlenet",
        lambda: GoogLeNet(_SMALL, (8, 8, 12), 10),
        pictures(64),
        lambda: GoogLeNet(_PLAN, (64, 64, 192), 1000),
        pictures(128, batch=1),
        removed=0.6,
        parameters=6_624_904,
    )
]
