"""What would be refused when its step comes is refused before training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tersor.errors import TersorError, named
from tersor.pruning.granularity import mask_of as mask_by_scores
from tersor.sessions.attachments import check_free, mask_of
from tersor.sessions.plan import Plan, Planned
from tersor.sessions.state import random_state, set_random_state
from tersor.simulation import Activations


def check_later(model: nn.Module, plan: Plan) -> None:
    """UsageError, naming weight or layer, for a technique that begins later and is not for it.

    Masks of now are in place. Each technique is tried on random numbers of the weight's shape under the mask that it
    will meet, which takes as long as its beginning will; what the weights will be then, nobody knows.
    """
    state = random_state()
    try:
        _check_weights(plan.tensors.values())
        _check_inputs(model, plan.activations)
    finally:
        set_random_state(state)


def _check_weights(planned: Iterable[Planned]) -> None:
    for part in planned:
        if part.training is not None and part.training.begin > 0:
            stored = part.stored
            numbers = torch.randn(stored.shape, generator=torch.Generator().manual_seed(0)).to(stored.dtype)
            try:
                part.training.simulate(numbers, part.treatment.representation, _mask_then(part, numbers))
            except TersorError as error:
                raise named(part.name, error) from error


def _check_inputs(model: nn.Module, activations: Mapping[str, Activations]) -> None:
    for name, config in activations.items():
        if config.begin > 0:
            layer = model.get_submodule(name)
            check_free(layer, name)
            try:
                config.simulate(layer)
            except TersorError as error:
                raise named(name, error) from error


def _mask_then(part: Planned, numbers: Tensor) -> Tensor | None:
    """A mask that keeps as many weights as that of step `begin` will, as far as it is known."""
    prune, schedule = part.treatment.prune, part.treatment.schedule
    assert part.training is not None
    if prune is None or schedule is None:
        now = mask_of(part)
        return None if now is None else now.cpu()
    if prune.density is None or prune.scope == "global" or prune.pattern != "weight":
        return None
    density = schedule.density(part.training.begin, prune.density)
    return mask_by_scores(numbers.float(), density, scope=prune.scope)
