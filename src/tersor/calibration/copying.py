"""Copies of networks to work on."""

from __future__ import annotations

import copy

from torch import nn

from tersor.errors import UsageError


def copied(model: nn.Module) -> nn.Module:
    """A copy. UsageError, with what torch raised, for a model that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(
            f"the model cannot be copied ({type(error).__name__}: {error}); detach what its attributes hold"
        ) from error
