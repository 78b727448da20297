"""Some of a picture's windows stand for all of them: they overlap, and H costs the square of their length each."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.calibration.accumulate import Tokens
from tersor.calibration.features import Features


class Thinning:
    """Draws windows, use after use, from one stream of random numbers. limit: windows of a sample, about."""

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._generator = torch.Generator().manual_seed(seed)

    def thin(self, inputs: Features | Tokens) -> tuple[Features | Tokens, float, Tensor | None]:
        """(what is left of `inputs`, how many each of its vectors stands for, the places as `Features.drawn`)."""
        if isinstance(inputs, Tokens):
            return inputs, 1.0, None
        places = inputs.drawn(self._limit, self._generator)
        if places is None:
            return inputs, 1.0, None
        return inputs.at(places), inputs.view.shape[2] / places.numel(), places
