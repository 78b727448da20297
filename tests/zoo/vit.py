"""ViT-B/16 (Dosovitskiy et al. 2020) and DeiT (Touvron et al. 2021), whose distillation token has a head of its own.

Two styles of attention: written out over one projection to queries, keys and values, or `nn.MultiheadAttention`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.entry import Entry, pictures


class Attention(nn.Module):
    """Softmax written out or fused; the sizes of heads are attributes."""

    def __init__(self, dim: int, num_heads: int, fused: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = fused
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, self.num_heads * self.head_dim))


class InputSizedAttention(Attention):
    """As its authors wrote it first: the heads' width is read from the input's, so heads cannot go by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.scale
        return self.proj((attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C))


class ModuleAttention(nn.Module):
    """PyTorch's own module."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, attention: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Square images of `side` pixels in patches of `patch`; `distilled` adds a token, the mean of two heads answers."""

    def __init__(
        self,
        side: int,
        patch: int,
        dim: int,
        depth: int,
        num_heads: int,
        classes: int,
        *,
        attention: Callable[[int, int], nn.Module] = Attention,
        distilled: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        tokens = 2 if distilled else 1
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.dist_token = nn.Parameter(0.02 * torch.randn(1, 1, dim)) if distilled else None
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2 + tokens, dim))
        self.blocks = nn.Sequential(*[Block(dim, num_heads, attention) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        self.head_dist = nn.Linear(dim, classes) if distilled else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = [self.cls_token] if self.dist_token is None else [self.cls_token, self.dist_token]
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        if self.head_dist is None:
            return self.head(x[:, 0])
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


def _written_out(dim: int, num_heads: int) -> nn.Module:
    return Attention(dim, num_heads, fused=False)


def _entry(
    name: str, full: tuple[int, int], removed: float, parameters: int, attention: Callable[[int, int], nn.Module]
) -> Entry:
    """`full`: width and heads of the published network."""
    distilled = name.startswith("deit")
    return Entry(
        name,
        lambda: VisionTransformer(16, 4, 24, 2, 4, 10, attention=attention, distilled=distilled),
        pictures(16),
        lambda: VisionTransformer(224, 16, full[0], 12, full[1], 1000, attention=attention, distilled=distilled),
        pictures(224, batch=1),
        removed=removed,
        parameters=parameters,
    )


ENTRIES = [
    _entry("vit_b16", (768, 12), 0.35, 86_567_656, Attention),
    _entry("vit_b16_written_out", (768, 12), 0.35, 86_567_656, _written_out),
    _entry("vit_b16_module", (768, 12), 0.25, 86_567_656, ModuleAttention),
    _entry("deit_s", (384, 6), 0.25, 22_436_432, InputSizedAttention),
]
