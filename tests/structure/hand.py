"""Small networks with groups written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tersor.structure.groups import Group, Groups, Member


def member(tensor: str, dim: int, units: int, role: str = "vector", *, of: int = 1, start: int = 0) -> Member:
    """Unit u is the `of` positions from start + u * of."""
    return Member(tensor, dim, tuple(tuple(range(start + u * of, start + (u + 1) * of)) for u in range(units)), role)


def group(name: str, kind: str, units: int, members: Sequence[Member]) -> Group:
    return Group(name, kind, units, tuple(members), False)


def groups(*found: Group) -> Groups:
    return Groups(tuple(found), ())


def randomised(model: nn.Module) -> nn.Module:
    """In evaluation mode, with running moments that are not 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            value = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(value + 0.5 if name.endswith("var") else value - 0.5)
    return model.eval()


def zeroed(model: nn.Module, found: Groups, selection: dict[str, Sequence[int]]) -> None:
    """Sets the positions of the selected units to zero, in place: the masked network, without normalisations."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for each in found.groups:
            for own in each.members:
                for unit in selection.get(each.name, ()):
                    state[own.tensor].index_fill_(own.dim, torch.tensor(own.indices[unit]), 0)


def snapshot(model: nn.Module) -> dict:
    """Everything that surgery may touch: tensors by identity and value, integers, hooks."""
    return {
        name: (
            {k: (id(v), v.clone()) for k, v in {**m._parameters, **m._buffers}.items() if v is not None},
            {k: v for k, v in vars(m).items() if isinstance(v, (int, tuple))},
            id(vars(m).get("config")),
            list(m._state_dict_hooks),
            m.training,
        )
        for name, m in model.named_modules()
    }


def same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for name, (tensors, integers, *rest) in before.items():
        assert rest == list(after[name][2:])
        assert integers == after[name][1]
        assert tensors.keys() == after[name][0].keys()
        for key, (identity, value) in tensors.items():
            assert identity == after[name][0][key][0]
            assert torch.equal(value, after[name][0][key][1])


class Plain(nn.Module):
    """conv - bn - conv (grouped by 2, depthwise by 8) - flatten - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1, bias=False)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.point(torch.relu(self.depthwise(x)))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def plain_groups() -> Groups:
    vectors = ["stem.bias", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")), "depthwise.bias"]
    stem = [
        member("stem.weight", 0, 8, "output"),
        *(member(name, 0, 8) for name in vectors),
        member("depthwise.weight", 0, 8),
        member("point.weight", 1, 8, "input"),
    ]
    point = [member("point.weight", 0, 6, "output"), member("head.weight", 1, 6, "input", of=4)]
    return groups(group("stem.weight", "channel", 8, stem), group("point.weight", "channel", 6, point))


class Config:
    """Settings that all layers of a network share."""

    def __init__(self) -> None:
        self.heads = 4
        self.head_dim = 3
        self.sizes = [12, 12]


class Attention(nn.Module):
    """Reads heads from a shared config and the widths of q, k, v from a tuple."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.inner = config.heads * config.head_dim
        self.splits = (self.inner,) * 3
        self.qkv = nn.Linear(10, 3 * self.inner)
        self.out = nn.Linear(self.inner, 10)

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.config.heads, self.config.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).split(self.splits, -1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.inner))


class Transformer(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.config = Config()
        self.layers = nn.ModuleList(Attention(self.config) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def transformer_groups(layers: int = 2) -> Groups:
    def heads(name: str) -> Group:
        thirds = tuple(tuple(start + 3 * u + d for start in (0, 12, 24) for d in range(3)) for u in range(4))
        return group(
            f"{name}.qkv.weight",
            "head",
            4,
            [
                Member(f"{name}.qkv.weight", 0, thirds, "output"),
                Member(f"{name}.qkv.bias", 0, thirds, "vector"),
                member(f"{name}.out.weight", 1, 4, "input", of=3),
            ],
        )

    return groups(*(heads(f"layers.{i}") for i in range(layers)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


def recurrent_groups() -> Groups:
    def gates(name: str) -> Member:
        return Member(name, 0, tuple(tuple(5 * gate + u for gate in range(4)) for u in range(5)), "output")

    hidden = [
        *(gates(f"lstm.{n}") for n in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0")),
        member("lstm.weight_hh_l0", 1, 5, "input"),
        member("head.weight", 1, 5, "input"),
    ]
    table = [member("embedding.weight", 1, 6, "output"), member("lstm.weight_ih_l0", 1, 6, "input")]
    return groups(group("lstm", "hidden", 5, hidden), group("embedding.weight", "channel", 6, table))


class Tied(nn.Module):
    """An embedding tied to the head that reads the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(x + self.middle(x))


def tied_groups() -> Groups:
    members = [
        member("embedding.weight", 1, 6, "output"),
        member("middle.weight", 0, 6, "output"),
        member("middle.weight", 1, 6, "input"),
        member("middle.bias", 0, 6),
        member("head.weight", 1, 6, "input"),
    ]
    return groups(group("embedding.weight", "channel", 6, members))
