from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structure.shrinking import check, members, reasons

TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    def __init__(self, heads: int = 3, keys: int = 3, fused: bool = True, size: int = 4) -> None:
        super().__init__()
        self.heads, self.keys, self.fused, self.size = heads, keys, fused, size
        self.q, self.k, self.v = nn.Linear(12, heads * size), nn.Linear(12, keys * size), nn.Linear(12, keys * size)
        self.out = nn.Linear(heads * size, 7)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.size).transpose(1, 2)
        k, v = (p(x).view(n, t, self.keys, self.size).transpose(1, 2) for p in (self.k, self.v))
        mask = torch.full((t, t), float("-inf")).triu(1)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.keys != self.heads)
        else:
            times = self.heads // self.keys
            k, v = (p[:, :, None].expand(n, self.keys, times, t, self.size).reshape(q.shape) for p in (k, v))
            y = (q @ k.transpose(-1, -2) * self.size**-0.5 + mask).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


def _heads(model: nn.Module, selection: Mapping[str, Sequence[int]]) -> None:
    model.heads, model.keys = model.q.weight.shape[0] // model.size, model.k.weight.shape[0] // model.size


@pytest.mark.parametrize("fused", [True, False])
def test_heads_live_together(fused: bool) -> None:
    groups = check(Attention(fused=fused), TOKENS, patch=_heads)
    (only,) = groups.groups
    assert only.kind == "head" and only.units == 3
    first = (0, 1, 2, 3)
    places = [("q.weight", 0), ("k.bias", 0), ("v.weight", 0), ("out.weight", 1)]
    assert {members(only)[place] for place in places} == {first}


@pytest.mark.parametrize("fused", [True, False])
def test_grouped_queries(fused: bool) -> None:
    groups = check(Attention(6, 3, fused), TOKENS, patch=_heads)
    (only,) = groups.groups
    assert only.units == 3
    assert members(only)["q.weight", 0] == tuple(range(8)) and members(only)["k.weight", 0] == tuple(range(4))


def test_one_head_is_left_alone() -> None:
    groups = check(Attention(1, 1), TOKENS)
    assert groups.groups == () and "size of a head" in reasons(groups)["v.weight", 0]


@pytest.mark.parametrize("arrangement", ["three heads size", "heads three size", "chunk", "chunk of a head"])
def test_fused_projections(arrangement: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = 3, nn.Linear(12, 36), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            y = self.qkv(x)
            if arrangement == "three heads size":
                q, k, v = y.reshape(n, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
            elif arrangement == "heads three size":
                q, k, v = y.reshape(n, t, self.heads, 3, 4).permute(3, 0, 2, 1, 4)
            elif arrangement == "chunk":
                q, k, v = (p.unflatten(-1, (self.heads, 4)).transpose(1, 2) for p in y.chunk(3, -1))
            else:
                q, k, v = y.view(n, t, self.heads, 12).transpose(1, 2).chunk(3, -1)
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def patch(model: nn.Module, selection: object) -> None:
        model.heads = model.out.weight.shape[1] // 4

    (only,) = check(Net(), TOKENS, patch=patch).groups
    apart = (0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27)
    together = arrangement in ("heads three size", "chunk of a head")
    assert members(only)["qkv.weight", 0] == (tuple(range(12)) if together else apart)
    assert members(only)["out.weight", 1] == (0, 1, 2, 3) and only.kind == "head"


def test_rotated_positions_and_normalised_heads() -> None:
    class Net(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.register_buffer("cos", torch.randn(5, 4), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            q, k, v = (p(x).view(n, t, self.heads, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
            q, k = (self.norm(p) for p in (q, k))
            q, k = (p * self.cos + torch.cat([-p[..., 2:], p[..., :2]], -1) * self.cos for p in (q, k))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))

    groups = check(Net(), TOKENS, patch=_heads)
    assert [g.units for g in groups.groups] == [3] and not groups.groups[0].normalised
    assert ("norm.weight", 0) in reasons(groups)


def test_a_bias_for_each_head() -> None:
    class Net(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(9, 3))
            self.register_buffer("index", torch.arange(25).reshape(5, 5) % 9)

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            q, k, v = (p(x).view(n, t, -1, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
            bias = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1)[None]
            return self.out(((q @ k.mT) / 2 + bias).softmax(-1).matmul(v).transpose(1, 2).reshape(n, t, -1))

    groups = check(Net(), TOKENS)
    assert members(groups.groups[0])["table", 1] == (0,) and ("table", 0) in reasons(groups)


def test_heads_in_the_batch() -> None:
    class Net(Attention):
        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            t, n, _ = x.shape
            q, k, v = (p(x).view(t, n * self.heads, 4).transpose(0, 1) for p in (self.q, self.k, self.v))
            y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
            return self.out(y.transpose(0, 1).reshape(t, n, -1))

    (only,) = check(Net(), TOKENS, patch=_heads).groups
    assert only.units == 3 and members(only)["v.weight", 0] == (0, 1, 2, 3)


def test_einsum_with_heads_in_the_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Parameter(torch.zeros(12, 3, 4)) for _ in range(3))
            self.out = nn.Parameter(torch.zeros(3, 4, 7))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (torch.einsum("btc,chd->bhtd", x, w) for w in (self.q, self.k, self.v))
            y = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            return torch.einsum("bhqd,hdo->bqo", torch.einsum("bhqk,bhkd->bhqd", y, v), self.out)

    groups = check(Net(), TOKENS)
    (heads, size) = sorted(groups.groups, key=lambda g: g.kind)
    assert {members(g)["out", d] for g, d in ((size, 0), (heads, 1))} == {(0,)}
