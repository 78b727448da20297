"""Losses whose gradients stand for what the network computes, without labels.

Legend: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tersor.errors import CalibrationError

Objective = Callable[[Any, torch.Generator], Tensor]
"""(output of the model, generator) -> a scalar: the sum of the samples' losses."""


def default_objective(output: Any, generator: torch.Generator) -> Tensor:
    """`fisher_projection` where the output looks like class logits, else `random_projection`.

    Logits are an output's `logits`, or a tensor of at least two dimensions and two classes. Embeddings look the
    same: pass `random_projection` for those.
    """
    return fisher_projection(output, generator) if has_classes(output) else random_projection(output, generator)


def has_classes(output: Any) -> bool:
    """Whether an output looks like class logits, as `default_objective` decides it."""
    logits = main_output(output)
    return logits.dim() >= 2 and logits.shape[class_dimension(logits)] >= 2


def fisher_projection(output: Any, generator: torch.Generator) -> Tensor:
    """z . L v with v ~ N(0, I), for logits z with p = softmax(z) and L = diag(sqrt p) - p sqrt(p)^T.

    As L L^T = diag(p) - p p^T, its squared gradients are on average those of the true Fisher matrix, which labels
    drawn from p give, too (Kunstner et al. 2019). But a network that is sure of itself draws a telling label once in
    a hundred samples, and hundreds is all there are: on EfficientNet-Lite0, labels drawn for 160 pictures missed two
    thirds of the loss on others.

    Classes are the last dimension of (B, C) and (B, T, C), and dimension 1 of pictures (B, C, H, W).
    """
    logits = main_output(output).float()
    if logits.dim() < 2:
        raise CalibrationError(
            f"an output of shape {tuple(logits.shape)} has no dimension of classes; take it for values, by "
            "fisher=random_projection or Calibrate(outputs='values')"
        )
    logits = class_rows(logits)
    p = logits.detach().softmax(1)
    v = torch.randn(p.shape, generator=generator).to(p.device)
    scaled = p.sqrt() * v
    return ((scaled - p * scaled.sum(1, keepdim=True)) * logits).sum()


def class_rows(logits: Tensor) -> Tensor:
    """(draws, C): one row of class logits a sample, token or pixel, those of one sample one after the other."""
    dimension = class_dimension(logits)
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
        f"the model returns {type(output).__name__}, without a tensor to take gradients of; wrap it in a module that "
        "returns one"
    )


def class_dimension(logits: Tensor) -> int:
    """The last one of (B, C) and (B, T, C); 1 of pictures (B, C, H, W)."""
    return 1 if logits.dim() >= 4 else logits.dim() - 1
