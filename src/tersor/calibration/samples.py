"""Samples as users give them: batches that are tensors, tuples or mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.errors import CalibrationError, TersorError, UsageError, named


@dataclass(frozen=True)
class Half:
    """Every second batch, from the one numbered `first` on. Messages go on counting as the whole does."""

    whole: Sequence[Any]
    first: int

    def __iter__(self) -> Iterator[Any]:
        return iter(self.whole[self.first :: 2])


def halves(samples: Sequence[Any]) -> tuple[Half, ...]:
    """Both halves of some batches, to try on one what the other promises; one alone where there is one batch only."""
    return tuple(Half(samples, first) for first in range(min(len(samples), 2)))


def batches(samples: Iterable[Any]) -> Iterator[tuple[int, Any, int]]:
    """(number for messages, batch, samples in it) of all batches that are not empty.

    Raises UsageError if there are none, or one is of an unknown kind; CalibrationError for one that holds NaN.
    """
    first, step = (samples.first, 2) if isinstance(samples, Half) else (0, 1)
    if isinstance(samples, (Tensor, Mapping)):
        samples = [samples]
    if not isinstance(samples, Iterable):
        raise UsageError(f"samples must be an iterable of batches, got {type(samples).__name__}")
    empty = True
    for place, batch in enumerate(samples):
        index = first + step * place
        tensors = _tensors(batch)
        if not isinstance(batch, (Tensor, tuple, list, Mapping)) or not tensors:
            raise UsageError(
                f"batch {index} is {described(batch)}; give tensors, tuples or mappings of tensors, one a batch"
            )
        size = tensors[0].shape[0] if tensors[0].dim() else 1
        if size == 0:
            continue
        if any(tensor.is_floating_point() and bool(torch.isnan(tensor).any()) for tensor in tensors):
            raise CalibrationError(f"batch {index}, {described(batch)}, holds NaN; leave it out, or mend it")
        empty = False
        yield index, batch, size
    if empty:
        raise UsageError("samples: there are none; give at least one batch (an iterator may be used up already)")


def listed(samples: Iterable[Any]) -> list[Any]:
    """The batches of `samples`, to be used again and again. Errors as `batches`."""
    return [batch for _, batch, _ in batches(samples)]


def calibrating(calibration: Iterable[Any] | None) -> list[Any] | None:
    """The batches of an argument `calibration`, which errors name; None stays None. Errors as `batches`."""
    try:
        return None if calibration is None else listed(calibration)
    except TersorError as error:
        raise named("calibration", error) from error


def call(model: nn.Module, batch: Any, index: int) -> Any:
    """The model's output for a batch. CalibrationError, with what the model raised, if it rejects it."""
    try:
        if isinstance(batch, Tensor):
            return model(batch)
        return model(**batch) if isinstance(batch, Mapping) else model(*batch)
    except TersorError:
        raise
    except Exception as error:
        # Batches of data sets hold labels, which models do not take.
        several = isinstance(error, TypeError) and isinstance(batch, (tuple, list)) and len(batch) > 1
        hint = f" (the {len(batch)} parts of a batch are arguments of the model: leave labels out)" if several else ""
        raise CalibrationError(
            f"batch {index}, {described(batch)}: the model raised {type(error).__name__}: {error}{hint}"
        ) from error


def _tensors(batch: Any) -> list[Tensor]:
    parts: Iterable[Any] = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(batch, Tensor):
        return [batch]
    return [p for p in parts if isinstance(p, Tensor)] if isinstance(batch, (tuple, list, Mapping)) else []


def described(batch: Any) -> str:
    """Shapes and dtypes, for messages."""
    if isinstance(batch, Tensor):
        return f"{batch.dtype} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {described(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(described(part) for part in batch[:8]) + ")"
    return type(batch).__name__
