"""What a training is too short for, or never reached."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor, nn

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


def unbegun(plan: Plan, steps: int) -> list[str]:
    """The weights and inputs whose training begins when so many optimizer steps are over, or later, in words."""
    begins: dict[tuple[str, int], list[str]] = {}
    for name, part in plan.tensors.items():
        if part.training is not None:
            begins.setdefault((part.training.name, part.training.begin), []).append(name)
    for name, config in plan.activations.items():
        begins.setdefault((config.name, config.begin), []).append(f"the inputs of {name or 'the network'}")
    return [
        f"{kind} of {shortlist(names)} begins at step {begin}, and trains nothing before"
        for (kind, begin), names in begins.items()
        if 0 < begin >= steps
    ]


def warn_unreached(quantizers: Mapping[str, nn.Module]) -> None:
    """A TersorWarning, for the caller's caller, of quantizers (by layers) that have seen no training batch."""
    seen = {name: getattr(quantizer, "seen", None) for name, quantizer in quantizers.items()}
    names = [name or "the network" for name, count in seen.items() if isinstance(count, Tensor) and not int(count)]
    if names:
        warnings.warn(
            f"no training batch has reached the quantizers of the inputs of {shortlist(names)}: these were not "
            "quantized. Train in train() mode; layers that others compute with, without calling them (out_proj of "
            "nn.MultiheadAttention), have no inputs to quantize",
            TersorWarning,
            stacklevel=3,
        )


def warn_unfinished(recipe: Recipe, plan: Plan, steps: int) -> None:
    """A TersorWarning of all that a training of so many steps is too short for, for the caller's caller."""
    found = unfinished(recipe, plan, steps) + unbegun(plan, steps)
    if found:
        warnings.warn(f"the training ends at step {steps}: {shortlist(found)}", TersorWarning, stacklevel=3)
