"""MLP-Mixer-B/16 (Tolstikhin et al. 2021): perceptrons over tokens and over channels in turn."""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.entry import Entry, pictures


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class MixerBlock(nn.Module):
    def __init__(self, dim: int, tokens: int, hidden_tokens: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens = Mlp(tokens, hidden_tokens)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_channels = Mlp(dim, hidden_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(nn.Module):
    def __init__(self, side: int, patch: int, dim: int, hidden: tuple[int, int], depth: int, classes: int) -> None:
        super().__init__()
        tokens = (side // patch) ** 2
        self.stem = nn.Conv2d(3, dim, patch, patch)
        self.blocks = nn.Sequential(*[MixerBlock(dim, tokens, *hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x))
        return self.head(x.mean(dim=1))


ENTRIES = [
    Entry(
        "mlp_mixer",
        lambda: MlpMixer(16, 4, 24, (12, 48), 2, 10),
        pictures(16),
        lambda: MlpMixer(224, 16, 768, (384, 3072), 12, 1000),
        pictures(224, batch=1),
        removed=0.35,
        parameters=59_880_472,
    )
]
