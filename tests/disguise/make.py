"""Tensors in disguise, as the tools make them that write such checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def clustered(weight: Tensor, values: int) -> Tensor:
    """Every weight by the nearest of so many values."""
    centroids = torch.linspace(float(weight.min()), float(weight.max()), values) ** 3 / float(weight.max()) ** 2
    return centroids[(weight.reshape(-1, 1) - centroids).abs().argmin(1)].reshape(weight.shape)


def pruned(weight: Tensor, density: float) -> Tensor:
    """The largest weights; the others are +0."""
    smallest = weight.abs().reshape(-1).quantile(1 - density)
    return torch.where(weight.abs() > smallest, weight, 0.0)


def per_row(weight: Tensor, top: int = 127) -> Tensor:
    """round(w / s) * s with s = max |w| / top of each row: small negative weights become -0."""
    matrix = weight.reshape(len(weight), -1)
    step = matrix.abs().amax(1, keepdim=True) / top
    return (torch.round(matrix / step) * step).reshape(weight.shape)


def per_channel(weight: Tensor, low: int = -128, high: int = 127, asymmetric: bool = False) -> Tensor:
    """torch.fake_quantize_per_channel_affine."""
    matrix = weight.reshape(len(weight), -1)
    step = (matrix.amax(1) - matrix.amin(1)) / (high - low)
    zero = (low - matrix.amin(1) / step).round() if asymmetric else torch.zeros(len(weight))
    step = step if asymmetric else matrix.abs().amax(1) / high
    return torch.fake_quantize_per_channel_affine(weight, step, zero.to(torch.int32).clamp(low, high), 0, low, high)


def gguf(weight: Tensor, kind: str) -> Tensor:
    """What GGUF's type `kind` makes of the weights, dequantized."""
    groups = weight.reshape(-1, 32)
    if kind in ("Q4_1", "Q5_1"):
        levels = 15 if kind == "Q4_1" else 31
        bottom = groups.amin(1, keepdim=True)
        step = (groups.amax(1, keepdim=True) - bottom) / levels
        q = ((groups - bottom) / step + 0.5).floor().clamp(0, levels)
        return (q * half(step) + half(bottom)).reshape(weight.shape)
    if kind == "Q8_0":
        step = groups.abs().amax(1, keepdim=True) / 127
        return ((groups / step).round() * half(step) + 0.0).reshape(weight.shape)
    levels = 8 if kind == "Q4_0" else 16
    step = groups.gather(1, groups.abs().argmax(1, keepdim=True)) / -levels
    q = (groups / step + levels + 0.5).floor().clamp(0, 2 * levels - 1)
    return ((q - levels) * half(step)).reshape(weight.shape)


def gptq(weight: Tensor, group: int = 128) -> Tensor:
    """(q - zero) * s with float16 steps and integer zero points, 4 bits."""
    groups = weight.reshape(-1, group)
    step = half((groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)) / 15)
    zero = (-groups.amin(1, keepdim=True) / step).round()
    return (((groups / step + zero).round().clamp(0, 15) - zero) * step).reshape(weight.shape)


def half(values: Tensor) -> Tensor:
    return values.to(torch.float16).to(torch.float32)
