"""Small networks of the kinds that are converted."""

import torch
from torch import nn
from torch.nn import functional as F


class SamePadded(nn.Conv2d):
    """A convolution that pads by itself, more after than before."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Mobile(nn.Module):
    """An inverted residual, with one ReLU6 for all places."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.act = nn.ReLU6()
        self.depthwise = SamePadded(8, 8, 3, groups=8, bias=False)
        self.depthwise.padding = (0, 0)
        self.norm1 = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm0(self.stem(x)))
        x = F.pad(self.act(self.norm1(self.depthwise(x))), (0, -1, 0, -1))
        y = self.norm2(self.project(x))
        return self.head((y + self.branch(y)).mean((2, 3)))


def mobile(seed=0):
    torch.manual_seed(seed)
    net = Mobile().eval()
    for norm in (net.norm0, net.norm1, net.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
    return net


def pictures(count=12, seed=1):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def error(y, expected):
    """Relative to the output."""
    return float((y - expected).norm() / expected.norm())
