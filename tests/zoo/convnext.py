"""ConvNeXt-T (Liu et al. 2022): depthwise 7x7, layer norm, an inverted bottleneck of linear layers, layer scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.entry import Entry, pictures


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of (N, C, H, W), through a permutation."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.Module):
    """The same written out, as its authors do."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        return shortcut + x.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(
        self, depths: Sequence[int], dims: Sequence[int], classes: int, norm: type[nn.Module] = LayerNorm2d
    ) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), norm(dims[0], eps=1e-6))])
        for i in range(len(dims) - 1):
            self.downsample_layers.append(nn.Sequential(norm(dims[i], eps=1e-6), nn.Conv2d(dims[i], dims[i + 1], 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim) for _ in range(depth)]) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean([-2, -1])))


ENTRIES = [
    Entry(
        "convnext_t",
        lambda: ConvNeXt((1, 2, 1), (12, 24, 32), 10),
        pictures(64),
        lambda: ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), 1000),
        pictures(128, batch=1),
        removed=0.3,
        parameters=28_589_128,
    ),
    Entry(
        "convnext_t_written_norm",
        lambda: ConvNeXt((1, 2, 1), (12, 24, 32), 10, ChannelsFirstNorm),
        pictures(64),
        lambda: ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), 1000, ChannelsFirstNorm),
        pictures(128, batch=1),
        removed=0.3,
        parameters=28_589_128,
    ),
]
