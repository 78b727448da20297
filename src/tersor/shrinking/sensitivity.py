"""How much each layer can lose: the metric against the share that is pruned of it, one layer at a time (Li et al. 2017,
section 3.2), and budgets for the whole network from these curves.

Legend: f fraction pruned, n numbers that a layer's units take, L(f) what the metric loses.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from tersor.calibrated import Evaluate, measured
from tersor.calibration.copying import copied
from tersor.calibration.samples import calibrating
from tersor.columns import numbers_table
from tersor.errors import MissingExtraError, UsageError, did_you_mean, shortlist
from tersor.pruning import Prune, PruneChannels
from tersor.recipe import Recipe, Rule
from tersor.shrinking.channels import score_groups
from tersor.shrinking.holding import release, write
from tersor.shrinking.losses import Loss
from tersor.shrinking.matching import as_recipe, weight_plan
from tersor.shrinking.passes import arguments
from tersor.shrinking.removal import follow
from tersor.shrinking.selection import select
from tersor.shrinking.weights import Data, input_statistics, reconstructed, weight_evidence, weight_masks
from tersor.structure.cuts import selected_cuts, zero
from tersor.structure.edits import Edits
from tersor.structure.groups import Group, Groups

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class LayerCurve:
    """One layer. name: of the tensor, or the group. size: the numbers that a fraction is of.

    points: (fraction pruned, metric), by rising fraction.
    """

    name: str
    size: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` returns. config: what was tried. reference: the metric of the network as it is."""

    config: Prune | PruneChannels
    reference: float
    layers: tuple[LayerCurve, ...] = field(default=())

    def __str__(self) -> str:
        fractions = sorted({fraction for layer in self.layers for fraction, _ in layer.points})
        rows = []
        for layer in self.layers:
            found = dict(layer.points)
            rows.append([layer.name, f"{layer.size:,}", *(f"{found[f]:.4g}" if f in found else "" for f in fractions)])
        head = ["layer", "numbers", *(f"-{fraction:.0%}" for fraction in fractions)]
        return f"metric of the network as it is: {self.reference:.4g}\n\n{numbers_table(head, rows)}"

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types."""
        layers = [{**asdict(layer), "points": [list(point) for point in layer.points]} for layer in self.layers]
        return {"config": self.config.to_dict(), "reference": self.reference, "layers": layers}

    def plot(self, axes: Any = None) -> Any:
        """Draws the curves, one line a layer, on matplotlib axes (None makes some), and returns these.

        MissingExtraError without matplotlib.
        """
        if axes is None:
            try:
                axes = importlib.import_module("matplotlib.pyplot").subplots()[1]
            except ImportError as error:
                raise MissingExtraError("plots need matplotlib; run: pip install matplotlib") from error
        for layer in self.layers:
            fractions, metrics = zip((0.0, self.reference), *layer.points, strict=True)
            axes.plot(fractions, metrics, marker="o", label=layer.name)
        axes.set_xlabel("fraction pruned")
        axes.set_ylabel("metric")
        axes.legend()
        return axes

    def densities(self, target: float) -> dict[str, float]:
        """The share of each layer that is left, in (0, 1], so that `target` of all numbers is, at the least loss.

        Layers are taken as independent, and curves as their lower convex hulls: then sum L is least where all layers
        have the same marginal loss dL / d(n f), the Lagrange multiplier of the budget, which is found exactly, edge by
        edge of the hulls. UsageError unless 0 < target <= 1, and for one beyond the largest fractions measured.
        """
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target <= 1:
            raise UsageError(f"sensitivity: target must be a number above 0 up to 1, got {target!r}")
        total = sum(layer.size for layer in self.layers)
        to_remove = (1 - target) * total
        edges = []
        for layer in self.layers:
            hull = _hull([(f * layer.size, max(self.reference - metric, 0.0)) for f, metric in layer.points])
            for (a, low), (b, high) in itertools.pairwise(hull):
                edges.append(((high - low) / (b - a), layer.name, b - a))
        removed = dict.fromkeys((layer.name for layer in self.layers), 0.0)
        for _, name, length in sorted(edges, key=lambda edge: edge[0]):
            part = min(length, to_remove)
            removed[name] += part
            to_remove -= part
        if to_remove > 1e-9 * max(total, 1):
            least = (sum(length for _, _, length in edges) - total) / -total
            raise UsageError(
                f"sensitivity: the curves end where {least:.1%} is left, so that nothing is known of {target:.1%}; "
                "measure larger fractions"
            )
        return {layer.name: 1 - removed[layer.name] / layer.size for layer in self.layers}

    def configs(self, target: float) -> list[Recipe | PruneChannels]:
        """`densities(target)` as what `tersor.prune` takes: a Recipe, or one `PruneChannels` for each group."""
        shares = self.densities(target)
        if isinstance(self.config, PruneChannels):
            base = replace(self.config, macs=None, parameters=None, scope="group")
            return [replace(base, match=(n,), ratio=1 - share) for n, share in shares.items() if share < 1]
        rules = [Rule(n, prune=_at(self.config, share)) for n, share in shares.items() if share < 1]
        return [Recipe(rules)] if rules else []


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    config: Prune | PruneChannels | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    layers: str | Sequence[str] = "*",
    example_inputs: Any = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Sensitivity:
    """The metric of the network with one layer pruned, for each layer and fraction. The model is not changed.

    evaluate: a network -> a metric, higher is better; called once for each point, and once for the model.
    config: which criterion and pattern (a density, or a target, is needed but not used); None is `Prune` by magnitude.
        With `PruneChannels`, layers are the groups of channels, heads and hidden units, whose units are set to zero.
    fractions: that are pruned, between 0 and 1.
    layers: patterns of the names of tensors or groups.
    example_inputs, calibration, loss, seed: as of `tersor.prune`.
    Raises UsageError for bad arguments and patterns that match nothing; CalibrationError where `evaluate` fails; errors
    of `prune`.
    """
    config = config or Prune(density=0.5)
    _check(config, fractions)
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    samples = calibrating(calibration)
    data = Data(samples, loss, seed)
    reference = measured(evaluate, copied(model), " of the model as it is")
    work = copied(model)
    release(work)
    if isinstance(config, PruneChannels):
        args, kwargs = arguments(model, example_inputs, samples, loss)
        if args is None:
            raise UsageError("prune_channels needs example_inputs: what one call of the model takes")
        followed = follow(work, config, args, kwargs or {})
        candidates = _matching([group.name for group in followed.candidates], patterns)
        groups = [group for group in followed.candidates if group.name in candidates]
        curves = _of_groups(work, evaluate, config, fractions, groups, followed.groups, data)
    else:
        plan = weight_plan(work, as_recipe(_at(config, 0.5)))
        names = _matching(list(plan), patterns)
        curves = _of_weights(work, evaluate, config, fractions, {name: plan[name] for name in names}, data)
    return Sensitivity(config, reference, tuple(curves))


def _of_weights(
    model: nn.Module,
    evaluate: Evaluate,
    config: Prune,
    fractions: Sequence[float],
    plan: dict[str, Prune],
    data: Data,
) -> list[LayerCurve]:
    """`model` is changed on the way, and as it was in the end."""
    statistics = input_statistics(model, plan, data)
    evidence = weight_evidence(model, plan, data, statistics)
    state = {name: value.detach().clone() for name, value in model.named_parameters() if name in plan}
    curves = []
    for name in plan:
        points = []
        for fraction in sorted(fractions):
            one = {name: _at(config, 1 - fraction)}
            masks = weight_masks(model, one, evidence).masks
            new = reconstructed(model, one, masks, statistics)
            mask, value = new.get(name, (masks[name], state[name]))
            candidate = copied(model)
            write(candidate, name, value * mask.to(value.device))
            points.append((fraction, measured(evaluate, candidate, _of(name, fraction))))
        curves.append(LayerCurve(name, state[name].numel(), tuple(points)))
    return curves


def _of_groups(
    model: nn.Module,
    evaluate: Evaluate,
    config: PruneChannels,
    fractions: Sequence[float],
    groups: Sequence[Group],
    every: Groups,
    data: Data,
) -> list[LayerCurve]:
    """As `_of_weights`, for `groups` of `every`; all that a unit's positions hold becomes zero."""
    scores = score_groups(model, groups, config.criterion, samples=data.samples, loss=data.loss, seed=config.seed)
    one = replace(config, scope="group", min_units=1, round_to=1)
    state = model.state_dict()
    curves = []
    for group in groups:
        points = []
        for fraction in sorted(fractions):
            gone = select([group], scores, 1 - fraction, one).removed.get(group.name, [])
            candidate = copied(model)
            zero(candidate, selected_cuts(candidate, {group.name: gone}, every), Edits())
            points.append((fraction, measured(evaluate, candidate, _of(group.name, fraction))))
        curves.append(LayerCurve(group.name, _numbers(state, group), tuple(points)))
    return curves


def _of(name: str, fraction: float) -> str:
    return f" with {fraction:.0%} of {name} pruned"


def _numbers(state: dict[str, Tensor], group: Group) -> int:
    """Numbers in parameters and buffers at the group's positions; those of two dimensions count for both members."""
    total = 0
    for member in group.members:
        shape = state[member.tensor].shape
        total += sum(map(len, member.indices)) * shape.numel() // max(shape[member.dim], 1)
    return total


def _at(config: Prune, density: float) -> Prune:
    """For one tensor by itself."""
    scope = "tensor" if config.scope == "global" else config.scope
    return replace(config, density=density, scope=scope, floor=0.0)


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names) or f"; there are {shortlist(names)}"
            raise UsageError(f"sensitivity: {pattern!r} matches no layer{hint}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of (0, 0) and points (x, y) with x > 0, from left to right."""
    hull: list[tuple[float, float]] = []
    for x, y in [(0.0, 0.0), *sorted(points)]:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull


def _check(config: object, fractions: Sequence[float]) -> None:
    if not isinstance(config, (Prune, PruneChannels)):
        raise UsageError(f"sensitivity: config must be Prune or PruneChannels, got {config!r}")
    if isinstance(config, Prune) and config.density is None:
        raise UsageError(f"sensitivity: config must be a Prune with a density, which fractions replace; got {config}")
    if not fractions or len(set(fractions)) != len(fractions) or any(not 0 < fraction < 1 for fraction in fractions):
        raise UsageError(f"sensitivity: fractions must be different numbers between 0 and 1, got {fractions!r}")
