"""Pruning while a session trains: at once, or by schedules, each weight by those of its own rule."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from tersor.errors import ResumeError, TersorError, UsageError
from tersor.pruning import Prune, Regrow, Schedule
from tersor.recipe import Recipe, Rule
from tersor.sessions.attachments import without_simulations
from tersor.sessions.plan import Planned
from tersor.sessions.processes import average, broadcast
from tersor.shrinking.gradual import Gradual
from tersor.shrinking.holding import hold, holders, masks_of, release
from tersor.shrinking.weights import Data, weight_evidence, weight_masks


class Pruning:
    """Masks of the planned weights, which are held in `model` from now on.

    Those without a schedule are pruned at once. Weights whose schedules and regrowth are equal share a `Gradual`, so
    that scope "global" compares them. Masks only ever lose weights, but for regrowth. Errors as `Gradual`.

    gradual: one for each schedule and regrowth.
    """

    def __init__(self, model: nn.Module, planned: Iterable[Planned], data: Data) -> None:
        self._model = model
        groups: dict[tuple[Schedule | None, Regrow | None], dict[str, Prune]] = {}
        for part in planned:
            treatment = part.treatment
            if treatment.prune is not None:
                groups.setdefault((treatment.schedule, treatment.regrow), {})[part.name] = treatment.prune
        at_once = {
            name: prune for (schedule, _), own in groups.items() if schedule is None for name, prune in own.items()
        }
        if at_once:
            _prune_at_once(model, at_once, data)
        self.gradual = [
            Gradual(
                model,
                Recipe([Rule(name, prune=prune) for name, prune in own.items()]),
                schedule or Schedule("one_shot"),  # of step 0, which was above
                regrow=regrow,
                calibration=data.samples,
                loss=data.loss,
            )
            for (schedule, regrow), own in groups.items()
            if schedule is not None or regrow is not None
        ]

    def step(self) -> bool:
        """Counts an optimizer step; whether masks changed. Errors as `Gradual.step`."""
        if not self.gradual:
            return False
        for holder in holders(self._model).values():
            if holder.gradient is not None:
                average([holder.gradient])
        with without_simulations(self._model):
            changed = [gradual.step() for gradual in self.gradual]
        if any(changed):
            broadcast([holder.mask for holder in holders(self._model).values()])
        return any(changed)

    def density(self) -> float:
        """Share of the weights under masks that is kept; 1 where there are none."""
        masks = [holder.mask for holder in holders(self._model).values()]
        return sum(int(mask.sum()) for mask in masks) / max(sum(mask.numel() for mask in masks), 1) if masks else 1.0

    def state_dict(self) -> list[dict[str, Any]]:
        """What is not in the model's own state."""
        return [gradual.state_dict() for gradual in self.gradual]

    def load_state_dict(self, state: list[Mapping[str, Any]]) -> None:
        """The inverse of `state_dict`. ResumeError for another one."""
        try:
            for gradual, own in zip(self.gradual, state, strict=True):
                gradual.load_state_dict(own)
        except (ValueError, TypeError, TersorError) as error:
            raise ResumeError(f"the state's schedules of pruning are not those of the recipe: {error}") from error


def _prune_at_once(model: nn.Module, plan: Mapping[str, Prune], data: Data) -> None:
    for name, option in plan.items():
        if option.criterion == "obs":
            raise UsageError(
                f"{name}: the criterion 'obs' changes weights that stay; use tersor.prune before the session"
            )
    plain = copy.deepcopy(model)
    release(plain)
    evidence = weight_evidence(plain, plan, data)
    before = masks_of(model)
    masks = weight_masks(model, plan, evidence).masks
    hold(model, {name: mask & before[name].cpu() if name in before else mask for name, mask in masks.items()})
    broadcast([holder.mask for holder in holders(model).values()])
