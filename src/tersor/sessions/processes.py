"""What processes that train one network together (torchrun) must agree on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def count() -> int:
    """Processes that train together; 1 where `torch.distributed` is not in use."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if count() > 1 else 0


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Makes float tensors, in place, the mean over all processes: one exchange for all of them."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= count()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.reshape(tensor.shape))


@torch.no_grad()
def broadcast(masks: Sequence[Tensor]) -> None:
    """Makes bool tensors, in place, those of the first process."""
    if count() == 1 or not masks:
        return
    flat = torch.cat([mask.reshape(-1) for mask in masks]).to(torch.uint8)
    distributed.broadcast(flat, 0)
    for mask, part in zip(masks, flat.split([mask.numel() for mask in masks]), strict=True):
        mask.copy_(part.reshape(mask.shape))


def gathered(value: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process has, in the order of their ranks. Tensors and plain numbers only."""
    if count() == 1:
        return [value]
    file = io.BytesIO()
    torch.save(value, file)
    own = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    distributed.all_gather(lengths, torch.tensor([own.numel()]))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: own.numel()] = own
    found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(count())]
    distributed.all_gather(found, padded)
    return [
        torch.load(io.BytesIO(part[: int(length)].numpy().tobytes()), weights_only=True)
        for part, length in zip(found, lengths, strict=True)
    ]
