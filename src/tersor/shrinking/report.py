"""What pruning brought: costs before and after, and the masks and units behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from tersor.calibration.copying import copied
from tersor.columns import numbers_table
from tersor.container.writer import file_bytes
from tersor.costs import Costs, costs
from tersor.entries import compressed_entries
from tersor.errors import UsageError
from tersor.interop import from_state_dict
from tersor.recipe import Recipe
from tersor.shrinking.holding import finalize, finalized

MEASURES = ("bytes", "latency")
"""What is measured on request only, as it takes time."""


@dataclass(frozen=True)
class Round:
    """A step of pruning. costs: of the network after it. metric: after its fine-tuning; None without `evaluate`.

    pruned_metric: before its fine-tuning; None where there was none, or without `evaluate`.
    """

    step: str
    costs: Costs
    metric: float | None = None
    pruned_metric: float | None = None


@dataclass(frozen=True, repr=False)
class Pruned:
    """What `tersor.prune` returns.

    model:   an ordinary nn.Module, smaller where channels were removed; weights that are pruned one by one are held
             at zero by parametrizations, whatever trains it next. `finalize` takes these away.
    masks:   of pruned weights by the parameters' names: bool, True where kept, copies.
    units:   of groups that lost units: how many there were and are, by the group's name.
    blocks:  names of the residual blocks that were dropped.
    before, after: costs.
    metric_before, metric_after: what `evaluate` gave; None without it.
    rounds:  the steps on the way, in order; also those that were taken back.
    notes:   what was done differently from what was asked, and why.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    units: Mapping[str, tuple[int, int]]
    blocks: tuple[str, ...]
    before: Costs
    after: Costs
    metric_before: float | None = None
    metric_after: float | None = None
    rounds: tuple[Round, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return (
            f"Pruned({self.before.parameters:,} -> {self.after.parameters:,} parameters, {self.after.nonzeros:,} "
            "not zero)"
        )

    def finalize(self) -> nn.Module:
        """A copy of the model without parametrizations, its zeros written into the parameters."""
        return finalize(copied(self.model))

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types: costs, metrics, the density of each mask, units, blocks, rounds, notes."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "metric_before": self.metric_before,
            "metric_after": self.metric_after,
            "densities": {name: _density(mask) for name, mask in self.masks.items()},
            "units": {name: list(counts) for name, counts in self.units.items()},
            "blocks": list(self.blocks),
            "rounds": [{**vars(found), "costs": found.costs.to_dict()} for found in self.rounds],
            "notes": list(self.notes),
        }

    def report(self) -> str:
        """As a text: a table of costs, then what each tensor or group has left."""
        text = numbers_table(["", "before", "after", "left"], _cost_rows(self))
        if self.masks:
            rows = [
                [name, f"{mask.numel():,}", f"{int(mask.sum()):,}", f"{_density(mask):.2%}"]
                for name, mask in self.masks.items()
            ]
            text += "\n\n" + numbers_table(["weights of", "before", "after", "left"], rows)
        if self.units:
            rows = [[name, f"{a:,}", f"{b:,}", f"{b / a:.2%}"] for name, (a, b) in self.units.items()]
            text += "\n\n" + numbers_table(["units of", "before", "after", "left"], rows)
        if self.blocks:
            text += f"\n\nwithout the blocks {', '.join(self.blocks)}"
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])


def measured_costs(
    model: nn.Module, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, measure: Collection[str] = ()
) -> Costs:
    """Costs of the finalized model, with bytes and latency on request. Errors as `costs`; `model` stays as it is."""
    plain = finalized(model)
    found = costs(plain, args, kwargs, latency="latency" in measure)
    return replace(found, bytes=lossless_bytes(plain)) if "bytes" in measure else found


def lossless_bytes(model: nn.Module) -> int:
    """Bytes of the .tsr file of all values, exactly; zeros are found and coded as masks."""
    with from_state_dict(finalized(model).state_dict(keep_vars=True)) as checkpoint:
        return file_bytes(compressed_entries(checkpoint, Recipe.lossless()))


def check_measures(measure: Collection[str]) -> None:
    """UsageError for what cannot be measured."""
    if isinstance(measure, str) or any(name not in MEASURES for name in measure):
        raise UsageError(f"measure must be some of {', '.join(MEASURES)}, got {measure!r}")


def _cost_rows(found: Pruned) -> list[list[str]]:
    rows = []
    for name, form in (
        ("parameters", "{:,}"),
        ("nonzeros", "{:,}"),
        ("macs", "{:,}"),
        ("bytes", "{:,}"),
        ("latency", "{:.6f}"),
    ):
        a, b = getattr(found.before, name), getattr(found.after, name)
        if a is not None and b is not None:
            rows.append([name, form.format(a), form.format(b), f"{b / a:.2%}" if a else "-"])
    if found.metric_before is not None and found.metric_after is not None:
        rows.append(["metric", f"{found.metric_before:g}", f"{found.metric_after:g}", ""])
    return rows


def _density(mask: Tensor) -> float:
    return float(mask.double().mean()) if mask.numel() else 1.0
