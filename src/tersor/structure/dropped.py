"""What stands in the place of a residual block that was dropped."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Dropped(nn.Identity):
    """Hands its first input on. Unlike nn.Identity it takes what else the block was called with, such as masks."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`input` as it is."""
        return input
