"""One pass over samples: the gradients of a loss by every parameter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.samples import batches
from tersor.errors import CalibrationError, UsageError
from tersor.shrinking.losses import Loss, forward


@dataclass(frozen=True)
class WeightGradients:
    """Means over batches, float32 of the parameter w's shape.

    mean:   E[g].
    taylor: E[(w g)^2].
    """

    mean: Tensor
    taylor: Tensor


def weight_gradients(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    loss: Loss | None = None,
    names: Collection[str] | None = None,
    seed: int = 0,
) -> dict[str, WeightGradients]:
    """Gradients by the name of the parameter; a tied one has an entry under each of its names.

    Parametrized ones go by their plain names, `conv.weight`.

    model:   in evaluation mode during the pass, and handed back as it came.
    samples: batches as in `calibration.collect`, of what `loss` takes where it is given.
    loss:    (model, batch) -> scalar. None takes gradients without labels (`calibration.default_objective`), whose
             mean is zero up to chance: `taylor` alone tells something then.
    names:   of the parameters wanted; None for all of a float dtype.
    seed:    of the label-free loss, and of whatever the model and the iterator of samples draw.
    Parameters that the loss does not depend on have gradients of zero.
    Raises UsageError for unknown names or no samples; CalibrationError where the model rejects a sample, the loss is
    not finite or has no gradient, or gradients are NaN or Inf, naming the parameter.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}

    def visit(name: str, weight: Tensor, g: Tensor) -> None:
        mean, taylor = sums.setdefault(name, (torch.zeros_like(g), torch.zeros_like(g)))
        mean += g
        taylor += (weight * g).square()

    count = each_gradient(model, samples, visit, loss=loss, names=names, seed=seed)
    found = {name: WeightGradients(mean / count, taylor / count) for name, (mean, taylor) in sums.items()}
    for name, result in found.items():
        if not bool(torch.isfinite(result.mean).all() & torch.isfinite(result.taylor).all()):
            raise CalibrationError(f"{name}: its gradients are NaN or Inf; look at the samples and the loss")
    return found


Visit = Callable[[str, Tensor, Tensor], None]
"""(plain name, parameter, its gradient), both float32 and detached."""


def each_gradient(
    model: nn.Module,
    samples: Iterable[Any],
    visit: Visit,
    *,
    loss: Loss | None = None,
    names: Collection[str] | None = None,
    seed: int = 0,
) -> int:
    """Calls `visit` for every parameter after each batch's backward pass; how many batches there were.

    Arguments and errors as `weight_gradients`; gradients that are NaN or Inf are not looked for.
    """
    every = {plain_name(name): p for name, p in model.named_parameters(remove_duplicate=False)}
    wanted = [name for name, p in every.items() if p.is_floating_point()] if names is None else list(names)
    for name in wanted:
        if name not in every:
            raise UsageError(f"{name}: the model has no parameter of this name")
    parameters = list({id(every[name]): every[name] for name in wanted}.values())
    generator = torch.Generator().manual_seed(seed)
    count = 0
    with untouched(model, seed), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        for index, batch, _ in batches(samples):
            value = forward(model, batch, index, loss, generator)
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            of = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
            for name in wanted:
                weight, gradient = every[name].detach().float(), of[id(every[name])]
                visit(name, weight, torch.zeros_like(weight) if gradient is None else gradient.detach().float())
            count += 1
    return count


def plain_name(name: str) -> str:
    """`conv.weight` of `conv.parametrizations.weight.original`, other names as they are."""
    owner, found, rest = name.partition("parametrizations.")
    local, _, inner = rest.partition(".")
    return f"{owner}{local}" if found and inner == "original" else name
