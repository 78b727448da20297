"""`tersor.prune`: a network pruned as configs say, in one shot or by a schedule, measured before and after."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from tersor.calibrated import Evaluate, measured
from tersor.calibration.copying import copied
from tersor.calibration.samples import batches, calibrating
from tersor.errors import TersorWarning, UsageError
from tersor.recipe import Recipe
from tersor.shrinking.holding import masks_of
from tersor.shrinking.iterative import FineTune, Run, prune_at_once, prune_in_steps, prune_layer_by_layer
from tersor.shrinking.losses import Loss
from tersor.shrinking.matching import Config, check_names, listed_configs
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.passes import Passes, adopt, arguments, blocks_between
from tersor.shrinking.report import Pruned, check_measures, measured_costs
from tersor.shrinking.weights import Data

SETTLES = 64
"""Samples of which networks are repaired unasked: moments of fewer would harm batch norms."""


def prune(
    model: nn.Module,
    config: Config | Sequence[Config],
    *,
    example_inputs: Any = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    fine_tune: FineTune | None = None,
    evaluate: Evaluate | None = None,
    schedule: Iterative | LayerByLayer | None = None,
    measure: Collection[str] = (),
    repair: bool | None = None,
    inplace: bool = False,
    seed: int = 0,
) -> Pruned:
    """Prunes weights (`Prune`), channels, heads and hidden units (`PruneChannels`), or residual blocks (`PruneBlocks`).

    model:  stays as it is, unless `inplace`. Weights that it holds at zero already stay there.
    config: what to prune: `Prune` is for all weights, a Recipe or Rules say which; a list is done in order, and of a
        recipe blocks first, then channels, then weights. All shares are of the network given.
    example_inputs: what one call takes: a tensor, a tuple or a mapping, best a batch of one, of which MACs and latency
        are counted; by default the first batch of `calibration`. Removals need it.
    calibration: batches for criteria that look at samples, as of `compress`; of what `loss` takes where it is given.
    loss:   (model, batch) -> scalar loss with labels; None takes gradients of the model's own predictions.
    fine_tune: trains the network that it is given, in place, after each step.
    evaluate: a network -> a metric, higher is better.
    schedule: None is one shot; `Iterative` or `LayerByLayer`. (`Gradual` is for loops of your own.)
    measure: what else is in the costs: "bytes" (of the .tsr file that keeps every value) and "latency".
    repair: whether what stays makes good for what goes: layers whose weights are pruned, or that read channels that go,
        by least squares on their inputs; where channels or blocks go, batch norms by moments of the samples, too. None
        does so where nothing else would, that is with `calibration` of 64 samples or more and without `fine_tune`.
        (The criterion "obs" always changes weights.)
    inplace: the object given becomes the pruned network. Its parameters stay the same objects only where weights are
        pruned in one shot; make optimizers after everything else.
    seed:   of the calibration's random projections.

    Where less is pruned than asked for (a layer keeps one unit at least), one TersorWarning says so of all layers.
    Raises UsageError for contradicting options, patterns that match nothing and criteria without what they need;
    CalibrationError where inputs, `calibration`, `evaluate` or `fine_tune` fail; StructureError, naming group and
    operation, where a network cannot be followed or a removal does not give the masked network; MismatchError as
    `hold`; UnsupportedTypeError for lazy modules that were not called yet. Messages name the layer.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"prune takes an nn.Module, got {type(model).__name__}")
    steps = listed_configs(config)
    check_names(steps, model)
    measure = _measures(measure, schedule)
    _check_functions(fine_tune, evaluate, loss)
    samples = calibrating(calibration)
    args, kwargs = arguments(model, example_inputs, samples, loss)
    repair = _repairs(repair, samples, fine_tune)
    passes = Passes(steps, args, kwargs, Data(samples, loss, seed), repair=repair)
    direct = inplace and schedule is None and all(isinstance(step, Recipe) for step in steps)
    work = model if direct else copied(model)
    before = measured_costs(work, args, kwargs, measure)
    reference = None if evaluate is None else measured(evaluate, copied(model), " of the model as it is")
    run = Run(work, passes, before, fine_tune, evaluate, measure, reference, reference)
    if isinstance(schedule, Iterative):
        prune_in_steps(run, schedule)
    elif isinstance(schedule, LayerByLayer):
        prune_layer_by_layer(run, schedule)
    else:
        prune_at_once(run)
    for note in run.told():
        warnings.warn(note, TersorWarning, stacklevel=2)
    return _result(run, blocks_between(model, run.model), adopt(model, run.model) if inplace else run.model)


def _result(run: Run, blocks: tuple[str, ...], model: nn.Module) -> Pruned:
    units = {n: counts for n, counts in run.units.items() if not any(n.startswith(f"{block}.") for block in blocks)}
    after = measured_costs(model, run.passes.args, run.passes.kwargs, run.measure)
    return Pruned(
        model,
        masks_of(model),
        units,
        blocks,
        run.before,
        after,
        run.reference,
        run.metric,
        tuple(run.rounds),
        run.told(),
    )


def _measures(measure: Collection[str], schedule: object) -> tuple[str, ...]:
    check_measures(measure)
    if schedule is not None and not isinstance(schedule, (Iterative, LayerByLayer)):
        raise UsageError(f"schedule must be Iterative or LayerByLayer, got {schedule!r}; Gradual is for your own loop")
    targets = schedule.targets if isinstance(schedule, Iterative) else {}
    return tuple(dict.fromkeys([*measure, *(name for name in ("bytes", "latency") if name in targets)]))


def _repairs(repair: bool | None, samples: Sequence[Any] | None, fine_tune: object) -> bool:
    if repair is not None and not isinstance(repair, bool):
        raise UsageError(f"repair must be true, false or None, got {repair!r}")
    if repair and samples is None:
        raise UsageError("repair needs calibration: batches of samples for the model")
    if repair is None and fine_tune is None and samples is not None:
        return sum(size for _, _, size in batches(samples)) >= SETTLES
    return bool(repair)


def _check_functions(fine_tune: object, evaluate: object, loss: object) -> None:
    for name, value in (("fine_tune", fine_tune), ("evaluate", evaluate), ("loss", loss)):
        if value is not None and not callable(value):
            raise UsageError(f"{name} must be a function, got {value!r}")
