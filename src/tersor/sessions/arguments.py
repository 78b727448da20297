"""Arguments of a session that are of a wrong type, told before anything is done with them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.interop.raw import check_made


def as_path(option: str, value: object) -> Path:
    """A path. UsageError, naming the option, for what is none."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{option} must be a path, got {value!r}")
    path = os.fspath(value)
    if not isinstance(path, str):
        raise UsageError(f"{option} must be a path of text, got {value!r}")
    if not path or "\0" in path:
        raise UsageError(f"{option} must be the path of a file, got {value!r}")
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


def check_values(model: nn.Module) -> None:
    """Raises, naming the first, for parameters and buffers without values: UnsupportedTypeError for those of lazy
    modules, UsageError for those on the meta device."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        check_made(tensor, name)
        if tensor.is_meta:
            raise UsageError(f"{name}: it is on the meta device and has no values; load the weights first")


def check_scalar(what: str, value: object) -> None:
    """UsageError unless `value` is a tensor of one real number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"{what} must be a scalar tensor, got {found}")
    if not value.is_floating_point():
        raise UsageError(f"{what} must be a real number with a gradient, got one of {value.dtype}")
