"""New samples from few: pictures are mirrored, shifted and mixed; the teacher says what they are.

Legend: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Augment = Callable[[Any, torch.Generator], Any]
"""(batch, generator) -> a batch of the same kind. The one given must not be changed."""


def default_augment(batch: Any, generator: torch.Generator) -> Any:
    """`pictures` of a batch that is one float tensor of four dimensions, or holds one; else `batch`."""
    if isinstance(batch, Mapping):
        parts = list(batch.items())
        if len(parts) == 1 and _is_pictures(parts[0][1]):
            return {parts[0][0]: pictures(parts[0][1], generator)}
        return batch
    if isinstance(batch, (tuple, list)):
        return (pictures(batch[0], generator),) if len(batch) == 1 and _is_pictures(batch[0]) else batch
    return pictures(batch, generator) if _is_pictures(batch) else batch


def pictures(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored with probability 1/2, then shifted by up to 1/8 of their size with reflected borders: (B, C, H, W)."""
    return shifted(mirrored(images, generator), generator)


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (B, C, H, W) from left to right with probability 1/2."""
    chosen = torch.rand(images.shape[0], generator=generator).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (B, C, H, W) by its own whole number of pixels, up to 1/8 of the size, with reflected borders."""
    b, _, height, width = images.shape
    y, x = height // 8, width // 8
    padded = F.pad(images, (x, x, y, y), mode="reflect")
    top = torch.randint(0, 2 * y + 1, (b,), generator=generator).tolist()
    left = torch.randint(0, 2 * x + 1, (b,), generator=generator).tolist()
    return torch.stack([padded[i, :, top[i] : top[i] + height, left[i] : left[i] + width] for i in range(b)])


def mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of (B, C, H, W) blended with another one, weights uniform in [0, 1] (Zhang et al. 2018, mixup)."""
    b = images.shape[0]
    share = torch.rand(b, generator=generator)
    share = torch.where(torch.rand(b, generator=generator) < 0.5, share, torch.ones(b)).to(images)
    other = images[torch.randperm(b, generator=generator).to(images.device)]
    return share[:, None, None, None] * images + (1 - share[:, None, None, None]) * other


def _is_pictures(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() == 4 and part.is_floating_point()
