"""Schedules of pruning that a training is too short for."""

from __future__ import annotations

import warnings

from tersor.errors import TersorWarning, shortlist
from tersor.recipe import Recipe
from tersor.sessions.plan import Plan


def unfinished(recipe: Recipe, plan: Plan, steps: int) -> list[str]:
    """The rules that prune by a schedule which is not at its end after so many optimizer steps, and how far they are,
    in words. Rules whose weights later ones decide on are left out."""
    asked = {(part.treatment.prune, part.treatment.schedule) for part in plan.tensors.values()}
    found = []
    for rule in recipe.rules:
        prune, schedule = rule.prune, rule.schedule
        if prune is None or prune.density is None or schedule is None or steps >= schedule.last:
            continue
        if (prune, schedule) in asked:
            density = schedule.density(steps, prune.density)
            found.append(
                f"the rule for {rule.match!r} prunes until step {schedule.last} and keeps {density:.4g} by then "
                f"instead of {prune.density:.4g}"
            )
    return found


def warn_unfinished(recipe: Recipe, plan: Plan, steps: int) -> None:
    """A TersorWarning of all of them, for the caller's caller."""
    found = unfinished(recipe, plan, steps)
    if found:
        warnings.warn(f"the training ends at step {steps}: {shortlist(found)}", TersorWarning, stacklevel=3)
