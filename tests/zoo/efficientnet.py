"""EfficientNet-B0 (Tan & Le 2019): MBConv with squeeze-and-excitation and stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.entry import Entry, pictures

_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first, outputs, blocks (table 1)."""
_SMALL = ((1, 3, 1, 8, 1), (4, 3, 2, 16, 2), (4, 5, 2, 24, 2))


def drop_connect(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: whole samples of a branch are dropped while training."""
    if not training:
        return x
    keep = torch.floor(1 - rate + torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device))
    return x / (1 - rate) * keep


class MBConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = expansion != 1
        self.id_skip = stride == 1 and inputs == outputs
        if self.expand:
            self.expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self.depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        squeezed = max(1, inputs // 4)
        self.se_reduce = nn.Conv2d(hidden, squeezed, 1)
        self.se_expand = nn.Conv2d(squeezed, hidden, 1)
        self.project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.swish = nn.SiLU()

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self.expand:
            x = self.swish(self.bn0(self.expand_conv(x)))
        x = self.swish(self.bn1(self.depthwise_conv(x)))
        squeezed = F.adaptive_avg_pool2d(x, 1)
        squeezed = self.se_expand(self.swish(self.se_reduce(squeezed)))
        x = torch.sigmoid(squeezed) * x
        x = self.bn2(self.project_conv(x))
        if self.id_skip:
            x = drop_connect(x, 0.2, self.training) + inputs
        return x


class EfficientNet(nn.Module):
    def __init__(self, stages: Sequence[Sequence[int]], first: int, last: int, classes: int) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, first, 3, 2, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(first, eps=1e-3)
        self.blocks = nn.ModuleList()
        inputs = first
        for expansion, kernel, stride, outputs, blocks in stages:
            for i in range(blocks):
                self.blocks.append(MBConvBlock(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.conv_head = nn.Conv2d(inputs, last, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(last, eps=1e-3)
        self.avg_pooling = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(last, classes)
        self.swish = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.swish(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        x = self.avg_pooling(self.swish(self.bn1(self.conv_head(x))))
        return self.fc(self.dropout(x.flatten(start_dim=1)))


ENTRIES = [
    Entry(
        "efficientnet_b0",
        lambda: EfficientNet(_SMALL, 8, 48, 10),
        pictures(32),
        lambda: EfficientNet(_STAGES, 32, 1280, 1000),
        pictures(128, batch=1),
        removed=0.6,
        parameters=5_288_548,
    )
]
