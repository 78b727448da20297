"""Masks from magnitudes: small weights are pruned (Han et al. 2015, Learning both Weights and Connections
for Efficient Neural Networks, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tersor._native import core
from tersor.errors import UsageError
from tersor.matrices import blocks, float_matrix
from tersor.options import Options


@dataclass(frozen=True)
class Prune(Options):
    """Keeps the weights of largest magnitude. Exactly one of `density` and `threshold` is given.

    density:   share of the weights that is kept, in (0, 1].
    threshold: weights with |w| > threshold >= 0 are kept; 0 prunes exactly the zeros.
    scope:     what `density` is a share of: "tensor", or "channel" for the same number in each output
               channel.
    """

    name: ClassVar[str] = "prune"

    density: float | None = None
    threshold: float | None = None
    scope: str = "tensor"

    def __post_init__(self) -> None:
        if (self.density is None) == (self.threshold is None):
            raise UsageError(
                f"{self.name}: exactly one of density (in (0, 1]) and threshold (0 or more) must be given, "
                f"got density={self.density!r} and threshold={self.threshold!r}"
            )
        if self.density is not None:
            self.check_number("density", 0.0, 1.0, open_low=True)
        else:
            self.check_number("threshold", 0.0, float("inf"))
        self.check_choice("scope", ("tensor", "channel"))

    def mask(self, weight: Tensor) -> Tensor:
        """The bool mask of the weight's shape, True where kept. Raises as `magnitude_mask`."""
        return magnitude_mask(weight, density=self.density, threshold=self.threshold, scope=self.scope)


def magnitude_mask(
    weight: Tensor, *, density: float | None = None, threshold: float | None = None, scope: str = "tensor"
) -> Tensor:
    """Bool mask of the weight's shape on the CPU, True where kept; the arguments are those of `Prune`.

    A density keeps exactly round(density * n) of n weights (of a row, with scope "channel"), in the order of
    magnitude and, among equals, of position; zeros are kept only where nothing else is left. Magnitudes are
    compared as float32. Raises UsageError as `Prune` does, and UnsupportedTypeError and NonFiniteError as
    `float_matrix`.
    """
    options = Prune(density, threshold, scope)
    values = float_matrix(weight)
    if options.scope == "tensor":
        values = values.reshape(1, -1)
    keep = np.zeros(values.shape, np.bool_)
    if options.density is not None:
        core.keep_largest(values, round(options.density * values.shape[1]), keep)
    elif options.threshold is not None:
        flat, flat_keep = values.reshape(-1), keep.reshape(-1)
        for block in blocks(flat.size):
            flat_keep[block] = np.abs(flat[block]).astype(np.float64) > options.threshold
    return torch.from_numpy(keep).reshape(weight.shape)
