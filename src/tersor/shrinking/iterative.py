"""Schedules of pruning: in steps until a target or a limit, or layer by layer, fine-tuned and measured in between."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import nn

from tersor.calibrated import Evaluate, measured
from tersor.calibration.copying import copied
from tersor.costs import Costs
from tersor.errors import CalibrationError, TersorError, UsageError, shortlist
from tersor.pruning import Prune
from tersor.pruning.schedules import Schedule as DensityPath
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.passes import Passed, Passes, planned
from tersor.shrinking.report import Round, measured_costs

FineTune = Callable[[nn.Module], object]
"""Trains the network that it is given, in place."""


@dataclass
class Run:
    """A network on its way. Mutable: rounds, units, notes and floors grow.

    model: the best so far. before: costs of the original. reference: its metric; None without `evaluate`.
    units: of groups that lost some, what they had and have. metric: of `model`.
    floors: of tensors and groups that keep more than was asked for, how much.
    """

    model: nn.Module
    passes: Passes
    before: Costs
    fine_tune: FineTune | None = None
    evaluate: Evaluate | None = None
    measure: Collection[str] = ()
    reference: float | None = None
    metric: float | None = None
    units: dict[str, tuple[int, int]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    floors: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, passed: Passed) -> Round:
        """Fine-tunes and measures what a pass gave; the network itself is not accepted yet."""
        pruned_metric = None
        if self.evaluate is not None and self.fine_tune is not None:
            pruned_metric = measured(self.evaluate, passed.model, f" after {name}, before fine-tuning")
        if self.fine_tune is not None:
            _tune(self.fine_tune, passed.model, name)
        metric = None if self.evaluate is None else measured(self.evaluate, passed.model, f" after {name}")
        costs = measured_costs(passed.model, self.passes.args, self.passes.kwargs, self.measure)
        found = Round(name, costs, metric, pruned_metric)
        self.rounds.append(found)
        return found

    def accept(self, passed: Passed, found: Round) -> None:
        """The network of a step is the best so far."""
        self.model, self.metric = passed.model, found.metric
        self.units.update(passed.units)
        self.notes += [note for note in passed.notes if note not in self.notes]
        self.floors.update(passed.floors)

    def told(self) -> tuple[str, ...]:
        """All that was done differently from what was asked; floors in one note."""
        kept = shortlist(f"{name} ({how_much})" for name, how_much in self.floors.items())
        return (*self.notes, f"more is kept than was asked for, by floors: {kept}") if kept else tuple(self.notes)


def prune_at_once(run: Run) -> None:
    """One pass, one fine-tuning."""
    passed = run.passes.run(run.model)
    run.accept(passed, run.take("one shot", passed))


def prune_in_steps(run: Run, schedule: Iterative) -> None:
    """Steps until the targets are met, the metric has lost more than it may, or the configs are reached."""
    _check_limit(run, schedule.max_drop)
    path = DensityPath(schedule.path, 0, schedule.steps)
    for number in range(1, schedule.steps + 1):

        def at(final: float, number: int = number) -> float:
            return path.density(number, final)

        name = f"step {number} of {schedule.steps}"
        passed = run.passes.run(copied(run.model), at)
        found = run.take(name, passed)
        if _lost_more(run, found, schedule.max_drop):
            last = run.rounds[-2].step if number > 1 else "the original"
            run.notes.append(f"{name} ended at a metric of {found.metric:g}, below the limit; {last} is kept")
            return
        run.accept(passed, found)
        missed = _missed(run, found.costs, schedule)
        if schedule.targets and not missed:
            return
    if schedule.targets:
        run.notes.append(f"not met after {schedule.steps} steps: {', '.join(missed)}; let the configs prune more")


def prune_layer_by_layer(run: Run, schedule: LayerByLayer) -> None:
    """Each tensor and group by itself; those that cost more than they may stay as they were."""
    _check_limit(run, schedule.max_drop)
    for name, option in planned(run.model, run.passes):
        candidate = copied(run.model)
        if isinstance(option, Prune):
            floors = run.passes.prune_weights(candidate, {name: option})
            passed = Passed(candidate, {}, (), floors)
        else:
            passed = run.passes.remove(candidate, option, only=[name])
        found = run.take(name, passed)
        if _lost_more(run, found, schedule.max_drop):
            run.notes.append(f"{name} is left as it was: the metric would be {found.metric:g}, below the limit")
            continue
        run.accept(passed, found)


def _tune(fine_tune: FineTune, model: nn.Module, name: str) -> None:
    modes = [(module, module.training) for module in model.modules()]
    try:
        result = fine_tune(model)
    except TersorError:
        raise
    except Exception as error:
        raise CalibrationError(f"fine_tune, after {name}, raised {type(error).__name__}: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(result, nn.Module) and result is not model:
        raise UsageError("fine_tune returned another network; it must train the one that it is given, in place")


def _check_limit(run: Run, max_drop: float | None) -> None:
    if max_drop is not None and run.reference is None:
        raise UsageError("max_drop needs evaluate: a function of the model whose result may drop by that much")


def _lost_more(run: Run, found: Round, max_drop: float | None) -> bool:
    if max_drop is None or found.metric is None or run.reference is None:
        return False
    return found.metric < run.reference - max_drop


def _missed(run: Run, costs: Costs, schedule: Iterative) -> list[str]:
    """Targets that are not met, in words."""
    missed = []
    for name, share in schedule.targets.items():
        before, now = getattr(run.before, name), getattr(costs, name)
        if before is None or now is None:
            raise UsageError(f"iterative: a target of {name} needs example_inputs: what one call of the model takes")
        if now > share * before:
            missed.append(f"{now / before:.1%} of {name} left instead of {share:.1%}")
    return missed
