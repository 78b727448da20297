"""In which order a network uses its weights, and how to stop once those of interest have been used."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.hooks import observed
from tersor.calibration.observer import Use
from tersor.calibration.samples import call
from tersor.calibration.targets import Target, find_targets


def execution_order(model: nn.Module, batch: Any, layers: Collection[str] | None = None, *, seed: int = 0) -> list[str]:
    """Names of the weights (as `collect` gives them) by their first use in a forward pass of `batch`."""
    targets = find_targets(model, layers)
    order = _Order()
    with torch.no_grad(), untouched(model, seed), observed(targets, order):
        call(model, batch, 0)
    return list(dict.fromkeys(order.names))


class _Order:
    """Notes every use."""

    batch = 0
    gradients = False

    def __init__(self) -> None:
        self.names: list[str] = []

    def observe(self, target: Target, use: Use) -> Tensor:
        """Notes a use."""
        self.names.append(target.names[use.weight])
        return use.output


class Enough(BaseException):
    """Ends a forward pass; `suppress` it around the call. No Exception: a network's own handlers let it through."""
