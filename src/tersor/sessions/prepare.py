"""`tersor.prepare`: a network made ready to be trained into its compressed form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tersor.calibration.samples import calibrating
from tersor.errors import UsageError
from tersor.files import check_output_file
from tersor.options import Options
from tersor.progress import Progress
from tersor.recipe import Recipe, Rule
from tersor.sessions.arguments import as_path, check_positive, check_values
from tersor.sessions.log import Log, as_log
from tersor.sessions.optimizers import check_held, check_kind
from tersor.sessions.plan import make_plan
from tersor.sessions.removal import remove_parts
from tersor.sessions.restoring import unchanged_on_error
from tersor.sessions.session import Outward, Session
from tersor.sessions.teaching import Teaching
from tersor.sessions.unfinished import warn_unfinished
from tersor.sessions.wrapping import unwrapped
from tersor.shrinking.losses import Loss
from tersor.shrinking.weights import Data
from tersor.training import Distillation


def prepare(
    model: nn.Module,
    recipe: Recipe | Rule | list[Rule],
    *,
    example_inputs: Any = None,
    optimizer: Optimizer | None = None,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    distillation: Teaching | None = None,
    steps: int | None = None,
    calibration: Iterable[Any] | None = None,
    calibration_loss: Loss | None = None,
    log: Log | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Session:
    """Makes `model` ready for a training loop that compresses it, and gives the `Session` that the loop calls.

    model:  changed in place: channels and blocks are removed now, weights are pruned and simulated by parametrizations
            from now on. Parameters stay the same objects. May be wrapped in DistributedDataParallel or compiled; best
            it is not yet, and where something is removed it must not be.
    recipe: which technique for which weight, and when (`Training.begin`, `Schedule`).
    example_inputs: what one call takes, as of `tersor.prune`, for rules that remove; by default the first batch of
            `calibration`.
    optimizer: made for the model's parameters; gets groups for those that simulations bring. Make schedulers of
            learning rates after this call: they count the groups. None where nothing brings parameters, or for
            `Session.join` later; else the first `Session.step` raises.
    teacher: one network or several whose outputs the student learns to give, by `Distillation` with its defaults.
    distillation: the same with other settings; or any function of the student's inputs and outputs (`Teaching`).
    steps:  optimizer steps in all, for what is ramped over the training, and for `progress`. A TersorWarning names the
            rules whose schedules end later.
    calibration, calibration_loss: for criteria of pruning that look at samples, and repairs, as in `tersor.prune`.
    log:    a file of JSON lines, or a `Log`. progress: called with (stage, done, total); needs `steps`.
    checkpoint: the file that gets the session's state if the loss is no number any more.
    Raises UsageError for patterns that match nothing, contradicting rules, a network that is in a session already, an
    optimizer that holds none of its parameters, and whatever the techniques refuse, now or when they begin; messages
    name the weight. OutputError where `log` or `checkpoint` cannot be written. What `tersor.prune` raises where
    channels or blocks cannot be removed. Model and optimizer are then as they were before.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"prepare takes an nn.Module, got {type(model).__name__}")
    chosen = _recipe(recipe)
    _check_arguments(model, optimizer, steps, progress, checkpoint)
    outward = Outward(as_log(log), progress, checkpoint)
    data = Data(calibrating(calibration), calibration_loss)
    taught = [distillation] if isinstance(distillation, Distillation) else []
    with unchanged_on_error([unwrapped(model), *taught], optimizer, values=bool(chosen.removals)):
        plan = make_plan(unwrapped(model), chosen)
        if chosen.removals:
            _check_whole(model, chosen)
            removing, treating = chosen.parted()
            remove_parts(model, removing, optimizer, data, example_inputs)
            for each in taught:
                each.project(model)  # features have fewer channels now
            plan = make_plan(model, treating)
        session = Session(
            model,
            chosen,
            plan,
            data,
            optimizer=optimizer,
            distillation=_teaching(unwrapped(model), teacher, distillation),
            steps=steps,
            outward=outward,
        )
        if steps is not None:
            warn_unfinished(chosen, plan, steps)
    return session


def _check_arguments(model: nn.Module, optimizer: Any, steps: Any, progress: Any, checkpoint: Any) -> None:
    """Raises what `prepare` does for these; nothing has been done by then."""
    if steps is not None:
        check_positive("steps, where it is given,", steps)
    if progress is not None and not callable(progress):
        raise UsageError(f"progress must be callable, such as tersor.progress.ProgressLine(), got {progress!r}")
    if progress is not None and steps is None:
        raise UsageError("progress needs steps: how many optimizer steps the training has")
    if checkpoint is not None:
        check_output_file(as_path("checkpoint", checkpoint))
    check_values(unwrapped(model))
    if optimizer is not None:
        check_kind(optimizer)
        check_held(optimizer, model)


def _recipe(recipe: Any) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, (Rule, list, tuple)):
        return Recipe([recipe] if isinstance(recipe, Rule) else recipe)
    hint = ""
    if isinstance(recipe, (str, os.PathLike)):
        hint = "; a file is read by tersor.Recipe.load(path)"
    elif isinstance(recipe, Options):
        hint = f'; say which weights it is for: tersor.Rule("*", {recipe!r})'
    raise UsageError(f"the recipe must be a Recipe, a Rule or a list of Rules, got {recipe!r}{hint}")


def _check_whole(model: nn.Module, recipe: Recipe) -> None:
    if unwrapped(model) is not model:
        raise UsageError(
            f"the rule for {recipe.removals[0].match!r} removes channels or blocks, which a {type(model).__name__} "
            "cannot follow: prepare the network itself, then wrap or compile it"
        )


def _teaching(
    student: nn.Module, teacher: nn.Module | Sequence[nn.Module] | None, distillation: Teaching | None
) -> Teaching | None:
    if distillation is not None and not callable(distillation):
        raise UsageError(f"distillation must be callable, got {distillation!r}")
    if teacher is None:
        return distillation
    if distillation is not None:
        raise UsageError("give a teacher, or a distillation that knows its own")
    if not isinstance(teacher, (nn.Module, list, tuple)):
        raise UsageError(f"teacher must be an nn.Module, or several, got {type(teacher).__name__}")
    return Distillation(student, teacher)
