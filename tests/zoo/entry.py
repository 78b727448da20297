"""One architecture of the zoo: how it is built, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model's forward."""


@dataclass(frozen=True)
class Entry:
    """An architecture in two sizes: small for tests, and as published for benchmarks.

    name:       as in its paper, lower case.
    build:      makes the small network; `full` the published one.
    inputs:     makes what the small network is called with; `full_inputs` the same of the published one.
    removed:    least share of the parameters that must go when half of every prunable group is pruned.
    parameters: of the published network, counted by its authors; None where they differ in what they count.
    package:    what must be installed, or None.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    full: Callable[[], nn.Module]
    full_inputs: Callable[[], Inputs]
    removed: float
    parameters: int | None = None
    package: str | None = None

    def make(self, *, full: bool = False, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """A settled network in evaluation mode and its inputs: the same of the same seed. The RNG stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.full() if full else self.build()
            args, kwargs = self.full_inputs() if full else self.inputs()
            settle(model, args, kwargs)
        return model.eval(), (args, kwargs)


@torch.no_grad()
def settle(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Makes a network of random weights one in which mistakes show.

    Vectors that start as all zeros or all ones (biases, norms, layer scales) get noise, since a bias of zero hides that
    it was cut in the wrong place. Batch norms take their moments from the example, so that signals neither die
    nor grow on the way to the output.
    """
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over all batches seen: exactly the example's moments
        norm.reset_running_stats()
    model.train()
    model(*args, **kwargs)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def pictures(side: int, batch: int = 2, channels: int = 3) -> Callable[[], Inputs]:
    """Images float32 (batch, channels, side, side)."""
    return lambda: ((torch.randn(batch, channels, side, side),), {})


def tokens(vocabulary: int, length: int, batch: int = 2) -> Callable[[], Inputs]:
    """Token ids int64 (batch, length) as the only positional argument."""
    return lambda: ((torch.randint(vocabulary, (batch, length)),), {})
