"""Samples cut for training: some held out, the others in random order.

A batch's tensors are taken for lists of samples where they all have the same first dimension; a batch of another kind
is one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tersor.calibration.samples import batches


def held_out(samples: Iterable[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(to train on, held out): the last `share` of each batch's samples is held out, at least one of all.

    Batches that cannot be cut go as a whole, the last ones to the held-out side. With a single sample both sides have
    it: then nothing can be said about others. Raises UsageError as `calibration.samples.batches`.
    """
    train: list[Any] = []
    held: list[Any] = []
    whole: list[Any] = []
    for _, batch, size in batches(samples):
        kept = size - round(size * share)
        if _length(batch) is None or size == 1:
            whole.append(batch)
        elif kept == size:
            train.append(batch)
        else:
            kept = max(kept, 1)
            train.append(_part(batch, torch.arange(kept)))
            held.append(_part(batch, torch.arange(kept, size)))
    count = min(max(round(len(whole) * share), 1), len(whole) - 1) if len(whole) > 1 and share > 0 else 0
    train += whole[: len(whole) - count]
    held += whole[len(whole) - count :]
    return train, held or train


def shuffled(train: list[Any], size: int, generator: torch.Generator) -> Iterator[Any]:
    """Each sample once, in pieces of up to `size` of one batch; a last piece below half of `size` is left out."""
    cut: list[tuple[Any, Tensor | None]] = []
    for batch in train:
        length = _length(batch)
        if length is None or length <= size:
            cut.append((batch, None))
            continue
        order = torch.randperm(length, generator=generator)
        cut += [(batch, part) for part in order.split(size) if 2 * part.numel() >= size]
    for index in torch.randperm(len(cut), generator=generator).tolist():
        batch, part = cut[index]
        yield batch if part is None else _part(batch, part)


def pieces(batch: Any, size: int) -> list[Any]:
    """A batch cut into pieces of up to `size` samples, in order; itself where it cannot be cut."""
    length = _length(batch)
    if length is None or length <= size:
        return [batch]
    return [_part(batch, part) for part in torch.arange(length).split(size)]


def _length(batch: Any) -> int | None:
    """Number of samples where every part of a batch is a tensor of so many; else None."""
    parts = [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, Mapping) else batch)
    lengths = {part.shape[0] if isinstance(part, Tensor) and part.dim() else None for part in parts}
    return lengths.pop() if len(lengths) == 1 else None


def _part(batch: Any, index: Tensor) -> Any:
    if isinstance(batch, Tensor):
        return batch[index.to(batch.device)]
    if isinstance(batch, Mapping):
        return {key: part[index.to(part.device)] for key, part in batch.items()}
    return tuple(part[index.to(part.device)] for part in batch)
