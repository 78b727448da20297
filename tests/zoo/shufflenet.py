"""ShuffleNetV2 (Ma et al. 2018): chunks of channels, and the shuffle between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels (groups, rest) become (rest, groups)."""
    batchsize, num_channels, height, width = x.size()
    x = x.view(batchsize, groups, num_channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        self.branch1 = nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half)) if stride > 1 else None
        self.branch2 = nn.Sequential(
            *_pointwise(inputs if stride > 1 else half, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, repeats: Sequence[int], channels: Sequence[int], classes: int) -> None:
        super().__init__()
        first, *stages, last = channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = first
        for i, (repeat, outputs) in enumerate(zip(repeats, stages, strict=True)):
            blocks = [InvertedResidual(inputs, outputs, 2)]
            blocks += [InvertedResidual(outputs, outputs, 1) for _ in range(repeat - 1)]
            setattr(self, f"stage{i + 2}", nn.Sequential(*blocks))
            inputs = outputs
        self.conv5 = nn.Sequential(*_pointwise(inputs, last))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        x = self.conv5(x)
        x = x.mean([2, 3])
        return self.fc(x)


ENTRIES = [
    Entry(
        "shufflenet_v2",
        lambda: ShuffleNetV2((2, 3, 2), (8, 16, 32, 48, 64), 10),
        pictures(64),
        lambda: ShuffleNetV2((4, 8, 4), (24, 116, 232, 464, 1024), 1000),
        pictures(128, batch=1),
        removed=0.3,
        parameters=2_278_604,
    )
]
