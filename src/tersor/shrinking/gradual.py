"""Pruning inside a training loop: little by little (Zhu and Gupta 2017), with regrowth (Evci et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.samples import calibrating
from tersor.costs import effective_parameters
from tersor.errors import UsageError
from tersor.pruning import Prune
from tersor.pruning.schedules import Regrow, Schedule, drop_fraction
from tersor.recipe import Recipe
from tersor.shrinking.holding import Mask, hold, holders, release
from tersor.shrinking.losses import Loss
from tersor.shrinking.matching import as_recipe, weight_plan
from tersor.shrinking.weights import Data, weight_evidence, weight_masks


class Gradual:
    """Prunes a model while a loop of yours trains it: call `step()` after each `optimizer.step()`.

        gradual = Gradual(model, Prune(density=0.1), Schedule("cubic", begin=100, end=1000, every=50))
        for batch in batches:
            ...; loss.backward(); optimizer.step(); gradual.step()
        tersor.save(tersor.compress(model), "model.tsr")

    model:    changed in place: its weights are held by masks from now on, all True at first. Parameters stay the same
              objects, so that an optimizer made before goes on.
    config:   `Prune` with the final density, or a Recipe of them.
    schedule: which density at which step.
    regrow:   exchanges weights, of pattern "weight"; those that come back start at zero.
    calibration, loss: for criteria that need data.

    Mutable: `steps` counts. To resume, save `state_dict()` beside the model's, which has the masks; then make the
    model and its Gradual anew, and load both. Raises UsageError for configs without a density, patterns that match
    nothing, and as `Schedule.density`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Prune | Recipe,
        schedule: Schedule,
        *,
        regrow: Regrow | None = None,
        calibration: Iterable[Any] | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.regrow = regrow
        self.steps = 0
        self._data = Data(calibrating(calibration), loss)
        self._plan = weight_plan(model, as_recipe(config))
        for name, option in self._plan.items():
            if option.density is None:
                raise UsageError(f"{name}: gradual pruning needs a density to end at, got {option}")
            if regrow is not None and option.pattern != "weight":
                raise UsageError(f"{name}: regrowth exchanges single weights; its pattern is {option.pattern!r}")
        held = holders(model)
        shapes = {name: tensor.shape for name, tensor in effective_parameters(model)}
        hold(model, {n: torch.ones(shapes[n], dtype=torch.bool) for n in self._plan if n not in held})
        self._watch()

    def density(self) -> float:
        """Share of the planned weights that is kept now."""
        masks = [holder.mask for holder in self._holders().values()]
        return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def step(self) -> bool:
        """Counts a step of training, and changes the masks where the schedule says so. Returns whether it did.

        UsageError where weights are to be exchanged but no backward pass has left gradients.
        """
        self.steps += 1
        pruned, exchanged = self.schedule.changes(self.steps), self._exchanges(self.steps)
        if pruned:
            self._prune()
        if exchanged:
            self._exchange()
        self._watch()
        return pruned or exchanged

    def state_dict(self) -> dict[str, Any]:
        """What is not in the model's own: the number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`. UsageError for anything else."""
        steps = state.get("steps") if isinstance(state, Mapping) else None
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0 or set(state) != {"steps"}:
            raise UsageError(f"this is no state of Gradual: {state!r}; give what its state_dict() gave")
        self.steps = steps
        self._watch()

    def _holders(self) -> dict[str, Mask]:
        found = holders(self.model)
        missing = [name for name in self._plan if name not in found]
        if missing:
            raise UsageError(f"{missing[0]}: its mask was taken away; finalize a copy while Gradual goes on")
        return {name: found[name] for name in self._plan}

    def _prune(self) -> None:
        plan = {
            name: replace(option, density=self.schedule.density(self.steps, option.density or 1.0))
            for name, option in self._plan.items()
        }
        plain = copy.deepcopy(self.model)
        release(plain)
        evidence = weight_evidence(plain, plan, self._data)
        before = {name: holder.mask for name, holder in self._holders().items()}
        masks = weight_masks(self.model, plan, evidence).masks
        if self.regrow is None:
            masks = {name: mask & before[name].cpu() for name, mask in masks.items()}
        hold(self.model, masks)

    def _exchanges(self, step: int) -> bool:
        return self.regrow is not None and self.regrow.due(step)

    def _watch(self) -> None:
        """Gradients of whole weights are kept in the backward pass before an exchange, and only then."""
        due = self._exchanges(self.steps + 1)
        for holder in self._holders().values():
            holder.watch, holder.gradient = due, None

    @torch.no_grad()
    def _exchange(self) -> None:
        assert self.regrow is not None
        share = drop_fraction(self.steps, self.regrow.end, self.regrow.share)
        weights = dict(effective_parameters(self.model))
        held = self._holders()
        for name, holder in held.items():
            if holder.gradient is None:
                raise UsageError(f"{name}: no gradient to grow weights by; call step() after each backward pass")
        for name, holder in held.items():
            assert holder.gradient is not None
            grown = exchanged(weights[name], holder.gradient, holder.mask, share)
            self._zero(name, grown & ~holder.mask)
            holder.mask.copy_(grown)

    def _zero(self, name: str, fresh: Tensor) -> None:
        """Weights that come back start at zero, whatever was stored there (Evci et al. 2020, section 3)."""
        path, _, attribute = name.rpartition(".")
        chain = self.model.get_submodule(path).parametrizations[attribute]  # type: ignore[index, union-attr]
        original = getattr(chain, "original", None)
        if isinstance(original, Tensor) and original.shape == fresh.shape:
            original.masked_fill_(fresh, 0)


def exchanged(weight: Tensor, gradient: Tensor, mask: Tensor, share: float) -> Tensor:
    """The mask after one exchange: as many True as before (Evci et al. 2020, section 3, algorithm 1).

    Of the kept weights the `share` of smallest |w| goes; of what is then not kept the same number of largest |g| comes.
    weight, gradient: float, of the mask's shape; gradient of the whole weight, pruned positions included.
    """
    flat = mask.reshape(-1).clone()
    count = int(share * int(flat.sum()))
    if count == 0:
        return flat.reshape(mask.shape)
    worth = weight.reshape(-1).float().abs().masked_fill(~flat, float("inf"))
    flat[torch.argsort(worth, stable=True)[:count]] = False
    slope = gradient.reshape(-1).float().abs().masked_fill(flat, -1.0)
    flat[torch.argsort(slope, descending=True, stable=True)[:count]] = True
    return flat.reshape(mask.shape)
