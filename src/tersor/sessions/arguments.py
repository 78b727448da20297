"""Arguments of a session that are of a wrong type, told before anything is done with them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from torch import Tensor

from tersor.errors import UsageError


def as_path(option: str, value: object) -> Path:
    """A path. UsageError, naming the option, for what is none."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{option} must be a path, got {value!r}")
    path = os.fspath(value)
    if not isinstance(path, str):
        raise UsageError(f"{option} must be a path of text, got {value!r}")
    return Path(path)


def is_positive(value: object) -> bool:
    """Whether `value` is a positive integer; bools are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; bools are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def check_positive(option: str, value: object) -> None:
    """UsageError unless `value` is a positive integer."""
    if not is_positive(value):
        raise UsageError(f"{option} must be a positive integer, got {value!r}")


def check_scalar(what: str, value: object) -> None:
    """UsageError unless `value` is a tensor of one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"{what} must be a scalar tensor, got {found}")
