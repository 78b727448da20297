"""Masks of a network's weights, by the options that a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.collect import collect
from tersor.calibration.guard import check_seed
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import find_targets
from tersor.costs import effective_parameters, parameter_sites
from tersor.errors import CalibrationError, TersorError, UsageError, named
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

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def inputs(self) -> list[Any]:
        """What the model alone takes of each batch; none without samples."""
        samples = list(self.samples or ())
        return samples if self.loss is None else [unlabelled(batch) for batch in samples]


@dataclass(frozen=True)
class WeightMasks:
    """masks: bool, of the weights' shapes, on the CPU, by name. floors: of tensors that keep more than was asked for,
    how much."""

    masks: dict[str, Tensor]
    floors: dict[str, str] = field(default_factory=dict)


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
    floors: dict[str, str] = {}
    pools: dict[Prune, dict[str, Tensor]] = {}
    for name, option in plan.items():
        try:
            if option.scope == "global":
                pools.setdefault(option, {})[name] = _scores(option, weights[name], evidence.get(name), held.get(name))
            else:
                masks[name] = _own_mask(name, option, weights[name], evidence.get(name), held.get(name), floors)
        except TersorError as error:
            raise named(name, error) from error
    for option, scores in pools.items():
        assert option.density is not None
        found = global_masks(scores, option.density, pattern=option.pattern, floor=option.floor)
        masks.update(found.masks)
        floors.update((name, f"{more} more than its scores earn") for name, more in found.raised.items())
    return WeightMasks({name: masks[name] for name in plan}, floors)


def input_statistics(
    model: nn.Module, plan: Mapping[str, Prune], data: Data, *, repair: bool = False
) -> dict[str, LayerStatistics]:
    """Of the inputs of layers whose criterion looks at them, or, with `repair`, of all that can be calibrated.

    Samples are gone through once. UsageError, naming a tensor, without samples; errors as `collect`.
    """
    looking = [name for name, option in plan.items() if "inputs" in weight_criterion(option.criterion).needs]
    if looking and data.samples is None:
        raise _without_samples(looking[0], plan[looking[0]])
    names = set(looking)
    if repair and data.samples is not None:
        names |= set(plan) & repairable(model)
    if not names:
        return {}
    fisher = any(option.criterion == RECONSTRUCTS for option in plan.values())
    return collect(model, data.inputs(), fisher=fisher, layers=names, seed=data.seed, unreached="ignore")


def weight_evidence(
    model: nn.Module, plan: Mapping[str, Prune], data: Data, statistics: Mapping[str, LayerStatistics] | None = None
) -> dict[str, WeightEvidence]:
    """What the plan's criteria need to know beside the weights; UsageError, naming a tensor, without samples.

    model: without parametrizations that hold masks. statistics: of `input_statistics`; None collects what is needed.
    Errors as `collect_evidence`.
    """
    needing = {n: o.criterion for n, o in plan.items() if not weight_criterion(o.criterion).data_free}
    if not needing:
        return {}
    if data.samples is None:
        name = next(iter(needing))
        raise _without_samples(name, plan[name])
    return collect_evidence(model, needing, data.samples, loss=data.loss, seed=data.seed, statistics=statistics)


def reconstructed(
    model: nn.Module,
    plan: Mapping[str, Prune],
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, LayerStatistics],
    *,
    repair: bool = False,
) -> dict[str, tuple[Tensor, Tensor]]:
    """(mask, weight) of weights of which what stays makes good for what goes (`reconstruction`).

    Those whose criterion is "obs", and with `repair` all whose inputs are known.
    model:  without parametrizations that hold masks, before anything of the plan is pruned.
    masks:  by `weight_masks`. With "obs", single weights and N:M patterns get new ones, chosen column by column.
    Errors name the tensor; CalibrationError where no sample reached a layer pruned by "obs".
    """
    weights = {name: tensor.detach() for name, tensor in effective_parameters(model)}
    found = {}
    for name, option in plan.items():
        if option.criterion != RECONSTRUCTS and not (repair and name in statistics):
            continue
        if name not in statistics:
            raise CalibrationError(f"{name}: no sample reached its layer; prune it by another criterion")
        try:
            found[name] = _reconstructed(weights[name], option, masks[name], statistics[name])
        except TersorError as error:
            raise named(name, error) from error
    return found


def _without_samples(name: str, option: Prune) -> UsageError:
    return UsageError(f"{name}: criterion {option.criterion!r} needs calibration: batches of samples for the model")


def repairable(model: nn.Module) -> set[str]:
    """Names of the weights that `reconstruction.repair` can give new values: their inputs are known, and nothing
    computes them."""
    known = {name for target in find_targets(model, None) for name in target.names.values()}
    return known & _writable(model)


def _writable(model: nn.Module) -> set[str]:
    """Names of parameters that can be given new values: parametrizations that compute them say nothing of that."""
    shapes = {name: tensor.shape for name, tensor in effective_parameters(model)}
    names = {f"{prefix}{attribute}": stored.shape for prefix, _, attribute, stored in parameter_sites(model)}
    return {name for name, shape in shapes.items() if names[name] == shape}


def _reconstructed(weight: Tensor, option: Prune, mask: Tensor, statistics: LayerStatistics) -> tuple[Tensor, Tensor]:
    own = option.criterion == RECONSTRUCTS and option.scope == "tensor" and option.parts == 1
    single = own and parse_pattern(option.pattern).kind in ("weight", "n:m")
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
    floors: dict[str, str],
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
    floors[name] = f"{int(mask.sum())} of {mask.numel()}, not to lose all"
    return mask
