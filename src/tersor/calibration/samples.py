"""Samples as users give them: batches that are tensors, tuples or mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from tersor.errors import CalibrationError, TersorError, UsageError


def batches(samples: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """(batch, number of samples in it). UsageError if there are none, or one is of an unknown kind."""
    if isinstance(samples, (Tensor, Mapping)):
        samples = [samples]
    if not isinstance(samples, Iterable):
        raise UsageError(f"samples must be an iterable of batches, got {type(samples).__name__}")
    empty = True
    for index, batch in enumerate(samples):
        tensors = _tensors(batch)
        if not isinstance(batch, (Tensor, tuple, list, Mapping)) or not tensors:
            raise UsageError(
                f"sample {index} is {_described(batch)}; give tensors, tuples or mappings of tensors, one a batch"
            )
        size = tensors[0].shape[0] if tensors[0].dim() else 1
        if size == 0:
            continue
        empty = False
        yield batch, size
    if empty:
        raise UsageError("samples: there are none; give at least one batch (an iterator may be used up already)")


def listed(samples: Iterable[Any]) -> list[Any]:
    """The batches of `samples`, to be used again and again. Errors as `batches`."""
    return [batch for batch, _ in batches(samples)]


def call(model: nn.Module, batch: Any, index: int) -> Any:
    """The model's output for a batch. CalibrationError, with what the model raised, if it rejects it."""
    try:
        if isinstance(batch, Tensor):
            return model(batch)
        return model(**batch) if isinstance(batch, Mapping) else model(*batch)
    except TersorError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"sample {index}, {_described(batch)}: the model raised {type(error).__name__}: {error}"
        ) from error


def _tensors(batch: Any) -> list[Tensor]:
    parts: Iterable[Any] = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(batch, Tensor):
        return [batch]
    return [p for p in parts if isinstance(p, Tensor)] if isinstance(batch, (tuple, list, Mapping)) else []


def _described(batch: Any) -> str:
    """Shapes and dtypes, for messages."""
    if isinstance(batch, Tensor):
        return f"{batch.dtype} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {_described(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(_described(part) for part in batch[:8]) + ")"
    return type(batch).__name__
