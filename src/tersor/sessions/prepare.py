"""`tersor.prepare`: a network made ready to be trained into its compressed form."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tersor.calibration.samples import listed
from tersor.errors import UsageError
from tersor.files import check_output
from tersor.progress import Progress
from tersor.recipe import Recipe, Rule
from tersor.sessions.log import Log, as_log
from tersor.sessions.plan import make_plan
from tersor.sessions.session import Outward, Session, unwrapped
from tersor.sessions.teaching import Distillation, FromTeacher
from tersor.shrinking.losses import Loss
from tersor.shrinking.weights import Data


def prepare(
    model: nn.Module,
    recipe: Recipe | Rule | list[Rule],
    *,
    optimizer: Optimizer | None = None,
    teacher: nn.Module | None = None,
    distillation: Distillation | None = None,
    steps: int | None = None,
    calibration: Iterable[Any] | None = None,
    calibration_loss: Loss | None = None,
    log: Log | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Session:
    """Makes `model` ready for a training loop that compresses it, and gives the `Session` that the loop calls.

    model:  changed in place: weights are pruned and simulated by parametrizations from now on. Parameters stay the
            same objects. May be wrapped in DistributedDataParallel or compiled; best it is not yet.
    recipe: which technique for which weight, and when (`Training.begin`, `Schedule`).
    optimizer: made for the model's parameters; gets groups for those that simulations bring. Make schedulers of
            learning rates after this call: they count the groups. None where nothing brings parameters.
    teacher: a network whose outputs the student learns to give, left as it was. distillation: how; or, without a
            teacher, any function of the student's inputs and outputs (`sessions.Distillation`).
    steps:  optimizer steps in all, for what is ramped over the training, and for `progress`.
    calibration, calibration_loss: for criteria of pruning that look at samples, as in `tersor.prune`.
    log:    a file of JSON lines, or a `Log`. progress: called with (stage, done, total); needs `steps`.
    checkpoint: the file that gets the session's state if the loss is no number any more.
    Raises UsageError for patterns that match nothing, contradicting rules, a network that is in a session already, and
    whatever the techniques refuse; messages name the weight. OutputError where `log` or `checkpoint` cannot be written.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"prepare takes an nn.Module, got {type(model).__name__}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise UsageError(f"steps must be a positive integer, or None, got {steps!r}")
    if progress is not None and steps is None:
        raise UsageError("progress needs steps: how many optimizer steps the training has")
    if checkpoint is not None:
        check_output(checkpoint, force=True)
    chosen = recipe if isinstance(recipe, Recipe) else Recipe([recipe] if isinstance(recipe, Rule) else recipe)
    plan = make_plan(unwrapped(model), chosen)
    return Session(
        model,
        chosen,
        plan,
        Data(None if calibration is None else listed(calibration), calibration_loss),
        optimizer=optimizer,
        distillation=_distillation(teacher, distillation),
        steps=steps,
        outward=Outward(as_log(log), progress, checkpoint),
    )


def _distillation(teacher: nn.Module | None, distillation: Distillation | None) -> Distillation | None:
    if distillation is not None and not callable(distillation):
        raise UsageError(f"distillation must be callable, got {distillation!r}")
    if teacher is None:
        return distillation
    if not isinstance(teacher, nn.Module):
        raise UsageError(f"teacher must be an nn.Module, got {type(teacher).__name__}")
    if distillation is not None:
        raise UsageError("give a teacher, or a distillation that knows its own")
    return FromTeacher(teacher)
