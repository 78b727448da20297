"""Small simulations and loops that the tests of sessions share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.quantization import FixedPoint, RepresentationConfig
from tersor.simulation import Activations, Clock, Simulation, Training
from tersor.tensors import CompressedTensor, Uniform

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


class Grid(Simulation):
    """w -> step * clamp(round(w / step)), the step learned, gradients straight through."""

    levels: Tensor

    def __init__(self, weight: Tensor, bits: int, pull: float) -> None:
        super().__init__()
        self.bits, self.pull = bits, pull
        self.step = nn.Parameter(weight.detach().abs().max().reshape(1) / 2 ** (bits - 1))
        self.register_buffer("levels", torch.zeros(1, dtype=torch.int64))

    def codes(self, weight: Tensor) -> Tensor:
        top = 2 ** (self.bits - 1)
        return (weight / self.step).round().clamp(-top, top - 1)

    def forward(self, weight: Tensor) -> Tensor:
        scaled = weight / self.step
        codes = scaled + (self.codes(weight) - scaled).detach()
        return codes * self.step

    def penalty(self, weight: Tensor, clock: Clock) -> Tensor | None:
        if not self.pull:
            return None
        return self.pull * clock.part * (weight - self(weight).detach()).square().sum()

    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        self.levels.fill_(clock.step)
        self.step.clamp_(min=1e-3)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> CompressedTensor:
        codes = self.codes(weight).to(torch.int8).cpu()
        scale = self.step.detach().reshape(1, 1).float().cpu()
        kept = None if mask is None else mask.detach().cpu().clone()
        return Uniform(weight.shape, weight.dtype, kept, self.bits, codes, scale, None, 0, None, False, None, None)


@dataclass(frozen=True)
class Round(Training):
    """Trains a grid. pull: strength of a penalty that draws weights to it."""

    name: ClassVar[str] = "round"

    bits: int = 4
    pull: float = 0.0

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> Simulation:
        if isinstance(representation, FixedPoint):
            raise UsageError("round is not for fixed point")
        if bool((weight == 0).all()):
            raise UsageError("more centroids than weights")
        return Grid(weight if mask is None else weight * mask, self.bits, self.pull)


class Clamp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bound = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(inputs, -self.bound), self.bound)


@dataclass(frozen=True)
class ClampInputs(Activations):
    """Inputs within learned bounds."""

    name: ClassVar[str] = "clamp_inputs"

    def simulate(self, module: nn.Module) -> nn.Module:
        if not isinstance(module, nn.Linear):
            raise UsageError(f"clamp_inputs is not for {type(module).__name__}")
        return Clamp()


def build(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)


def train(session, count: int, draws: bool = False) -> None:
    """So many optimizer steps; with draws, on noisy inputs."""
    for _ in range(count):
        session.optimizer.zero_grad()
        noise = torch.randn_like(X) if draws else 0.0
        loss = session.loss((session.model(X + noise) - Y).square().mean())
        loss.backward()
        session.optimizer.step()
        session.step()
