"""MobileNetV2 (Sandler et al. 2018): inverted residuals with depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, outputs, blocks, stride of the first (table 2)."""
_SMALL = ((1, 8, 1, 1), (4, 8, 2, 2), (4, 16, 2, 2), (4, 24, 2, 1))


class ConvNormActivation(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = round(inputs * expansion)
        self.use_res_connect = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [ConvNormActivation(inputs, hidden, 1)] if expansion != 1 else []
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, stages: Sequence[Sequence[int]], first: int, last: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNormActivation(3, first, 3, 2)]
        inputs = first
        for expansion, outputs, blocks, stride in stages:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        layers.append(ConvNormActivation(inputs, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


ENTRIES = [
    Entry(
        "mobilenet_v2",
        lambda: MobileNetV2(_SMALL, 8, 48, 10),
        pictures(32),
        lambda: MobileNetV2(_STAGES, 32, 1280, 1000),
        pictures(128, batch=1),
        removed=0.6,
        parameters=3_504_872,
    )
]
