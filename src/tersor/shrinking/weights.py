"""Masks of a network's weights, by the options that a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.collect import collect
from tersor.calibration.statistics import LayerStatistics
from tersor.costs import effective_parameters
from tersor.errors import CalibrationError, TersorError, UsageError
from tersor.pruning import Prune
from tersor.pruning.criteria import WeightEvidence, weight_criterion
from tersor.pruning.granularity import global_masks, mask_of
from tersor.pruning.patterns import parse_pattern
from tersor.shrinking.evidence import collect_evidence
from tersor.shrinking.holding import masks_of
from tersor.shrinking.losses import Loss, unlabelled
from tersor.shrinking.reconstruction import prune_layer, repair

RECONSTRUCTS = "obs"
"""The criterion whose masks come with new values for the weights that stay."""


@dataclass(frozen=True)
class Data:
    """What criteria may look at. samples: batches. loss: with labels; None for calibration's own, without them."""

    samples: Sequence[Any] | None = None
    loss: Loss | None = None
    seed: int = 0


@dataclass(frozen=True)
class WeightMasks:
    """masks: bool, of the weights' shapes, on the CPU, by name. notes: where floors held against what was asked."""

    masks: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def weight_masks(
    model: nn.Module, plan: Mapping[str, Prune], evidence: Mapping[str, WeightEvidence] | None = None
) -> WeightMasks:
    """The masks that the options give the model's weights. Each tensor keeps one unit at least.

    plan: by the parameters' names (`matching.weight_plan`). Tensors whose options are equal, of scope "global", share
        one threshold. What the model holds at zero already is worth nothing.
    evidence: for criteria that need data (`weight_evidence`).
    Raises UsageError where a criterion needs data that is not there; errors name the tensor.
    """
    evidence = evidence or {}
    weights = {name: tensor.detach() for name, tensor in effective_parameters(model) if name in plan}
    held = masks_of(model)
    masks: dict[str, Tensor] = {}
    notes: list[str] = []
    pools: dict[Prune, dict[str, Tensor]] = {}
    for name, option in plan.items():
        try:
            if option.scope == "global":
                pools.setdefault(option, {})[name] = _scores(option, weights[name], evidence.get(name), held.get(name))
            else:
                masks[name] = _own_mask(name, option, weights[name], evidence.get(name), held.get(name), notes)
        except TersorError as error:
            raise _named(name, error) from error
    for option, scores in pools.items():
        assert option.density is not None
        found = global_masks(scores, option.density, pattern=option.pattern, floor=option.floor)
        masks.update(found.masks)
        notes.extend(f"{name} keeps {more} more than its scores earn: its floor" for name, more in found.raised.items())
    return WeightMasks({name: masks[name] for name in plan}, tuple(notes))


def weight_evidence(model: nn.Module, plan: Mapping[str, Prune], data: Data) -> dict[str, WeightEvidence]:
    """What the plan's criteria need to know beside the weights; UsageError, naming a tensor, without samples.

    model: without parametrizations that hold masks. Errors as `collect_evidence`.
    """
    needing = {n: o.criterion for n, o in plan.items() if not weight_criterion(o.criterion).data_free}
    if not needing:
        return {}
    if data.samples is None:
        name, criterion = next(iter(needing.items()))
        raise UsageError(f"{name}: criterion {criterion!r} needs calibration: batches of samples for the model")
    return collect_evidence(model, needing, data.samples, loss=data.loss, seed=data.seed)


def reconstructed(
    model: nn.Module, plan: Mapping[str, Prune], masks: Mapping[str, Tensor], data: Data
) -> dict[str, tuple[Tensor, Tensor]]:
    """(mask, weight) of those whose criterion is "obs": what stays makes good for what goes (`reconstruction`).

    model:  without parametrizations that hold masks, before anything of the plan is pruned.
    masks:  by `weight_masks`. Single weights and N:M patterns get new ones, chosen column by column; others are kept.
    Errors name the tensor; CalibrationError where no sample reached its layer.
    """
    names = [name for name, option in plan.items() if option.criterion == RECONSTRUCTS]
    if not names or data.samples is None:
        return {}
    inputs = data.samples if data.loss is None else [unlabelled(batch) for batch in data.samples]
    statistics = collect(model, inputs, layers=names, seed=data.seed, unreached="ignore")
    weights = {name: tensor.detach() for name, tensor in effective_parameters(model)}
    found = {}
    for name in names:
        if name not in statistics:
            raise CalibrationError(f"{name}: no sample reached its layer; prune it by another criterion")
        try:
            found[name] = _reconstructed(weights[name], plan[name], masks[name], statistics[name])
        except TersorError as error:
            raise _named(name, error) from error
    return found


def _reconstructed(weight: Tensor, option: Prune, mask: Tensor, statistics: LayerStatistics) -> tuple[Tensor, Tensor]:
    single = option.scope == "tensor" and option.parts == 1 and parse_pattern(option.pattern).kind in ("weight", "n:m")
    if single:
        found = prune_layer(weight, statistics, option.density, pattern=option.pattern)
        if bool(found.mask.any()):
            return found.mask, found.weight
    return mask, repair(weight, mask.to(weight.device), statistics)


def _scores(option: Prune, weight: Tensor, evidence: WeightEvidence | None, held: Tensor | None) -> Tensor:
    scores = option.scores(weight, evidence).cpu()
    return scores if held is None else torch.where(held.cpu(), scores, torch.zeros((), dtype=scores.dtype))


def _own_mask(
    name: str,
    option: Prune,
    weight: Tensor,
    evidence: WeightEvidence | None,
    held: Tensor | None,
    notes: list[str],
) -> Tensor:
    def mask_at(density: float | None) -> Tensor:
        if option.threshold is not None or (held is None and density == option.density):
            return option.mask(weight, evidence)
        scores = _scores(replace(option, threshold=None, density=density), weight, evidence, held)
        return mask_of(scores, density, pattern=option.pattern, scope=option.scope, parts=option.parts)

    mask = mask_at(option.density)
    if bool(mask.any()) or mask.numel() == 0:
        return mask
    option, density = replace(option, threshold=None, density=1.0), 0.5 / mask.numel()
    while not bool(mask.any()):
        density = min(1.0, 2 * density)
        mask = mask_at(density)
    notes.append(f"{name} would lose all of its weights; {int(mask.sum())} of {mask.numel()} are kept")
    return mask


def _named(name: str, error: TersorError) -> TersorError:
    return error if name in str(error) else type(error)(f"{name}: {error}")
