"""The hand-over between a layer's forward pass and whoever collects: one `Use` for each product with a weight.

Legend: B samples, G groups, P positions, R rows of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tersor.calibration.accumulate import Tokens
from tersor.calibration.features import Features


@dataclass(frozen=True)
class Use:
    """One product of a weight with inputs.

    weight:   the parameter's name within its module.
    inputs:   what it multiplied.
    output:   the product (with or without a bias).
    arranged: a gradient of the shape of `output` -> (B, G, R, P), in the order of the inputs.
    first:    the first of the layout's groups that this use is of.
    """

    weight: str
    inputs: Features | Tokens
    output: Tensor
    arranged: Callable[[Tensor], Tensor]
    first: int = 0


class Observe(Protocol):
    """Told of every use. Returns the output to go on with: the same values, perhaps with a gradient hook."""

    gradients: bool
    """The outputs that it returns may carry gradient hooks: results must be computed from them."""

    @property
    def batch(self) -> int:
        """Samples in the present batch; 0 if not known."""
        ...

    def __call__(self, use: Use) -> Tensor:
        """Told of a use; returns the output to go on with."""
        ...
