"""Losses whose gradients stand for what the network computes, without labels.

Legend: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.errors import CalibrationError

Objective = Callable[[Any, torch.Generator], Tensor]
"""(output of the model, generator) -> a scalar: the sum of the samples' losses."""


def default_objective(output: Any, generator: torch.Generator) -> Tensor:
    """`sampled_labels` where the output looks like class logits, else `random_projection`.

    Logits are an output's `logits`, or a tensor of at least two dimensions and two classes. Embeddings look the
    same: pass `random_projection` for those.
    """
    return sampled_labels(output, generator) if has_classes(output) else random_projection(output, generator)


def has_classes(output: Any) -> bool:
    """Whether an output looks like class logits, as `default_objective` decides it."""
    logits = main_output(output)
    return logits.dim() >= 2 and logits.shape[_class_dimension(logits)] >= 2


def sampled_labels(output: Any, generator: torch.Generator) -> Tensor:
    """-log p(y) with y drawn from the model's own p (Kunstner et al. 2019: the true, not the empirical, Fisher).

    Classes are the last dimension of (B, C) and (B, T, C), and dimension 1 of pictures (B, C, H, W).
    """
    logits = main_output(output).float()
    if logits.dim() < 2:
        raise CalibrationError(
            f"labels cannot be drawn from an output of shape {tuple(logits.shape)}: it has no dimension of classes"
        )
    logits = class_rows(logits)
    p = logits.detach().softmax(1).cpu()
    labels = torch.multinomial(p, 1, generator=generator)[:, 0].to(logits.device)
    return F.cross_entropy(logits, labels, reduction="sum")


def class_rows(logits: Tensor) -> Tensor:
    """(draws, C): one row of class logits a sample, token or pixel, those of one sample one after the other."""
    dimension = _class_dimension(logits)
    return logits.movedim(dimension, -1).reshape(-1, logits.shape[dimension])


def random_projection(output: Any, generator: torch.Generator) -> Tensor:
    """v . y with v ~ N(0, I): the expected squared gradient is that of the Gauss-Newton matrix of |y|^2 / 2."""
    y = main_output(output).float()
    v = torch.randn(y.shape, generator=generator).to(y.device)
    return (v * y).sum()


def main_output(output: Any) -> Tensor:
    """The tensor that an output is about: itself, its `logits`, or its first float tensor.

    Raises CalibrationError if there is none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.is_floating_point():
            return part
    raise CalibrationError(
        f"the model returns {type(output).__name__}, without a tensor to take gradients of; pass fisher=a function of "
        "(output, generator) that returns a scalar"
    )


def _class_dimension(logits: Tensor) -> int:
    return 1 if logits.dim() >= 4 else logits.dim() - 1
