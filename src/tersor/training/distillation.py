"""A student that learns from teachers: from what they answer, and from what goes on inside them.

    L = (1 - w) L_task + w t^2 KL(p_teachers(t) | p_student(t)) + sum over matches of w_m L_m

(Hinton et al. 2015, section 2, with the matches of `MatchFeatures`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.objectives import has_classes, main_output
from tersor.calibration.samples import call
from tersor.errors import CalibrationError, MismatchError, TersorError, UsageError
from tersor.options import Options
from tersor.training.attention_transfer import attention_loss
from tersor.training.distill import default_distance
from tersor.training.ensembles import Mean, as_teachers, ensemble_logits, ensemble_values
from tersor.training.hints import channels, hint_loss, projection
from tersor.training.relational import angle_loss, distance_loss
from tersor.training.taps import Taps

KINDS = {"hint": hint_loss, "attention": attention_loss, "distance": distance_loss, "angle": angle_loss}
"""Losses of features by their names: (student's, teacher's) -> a scalar."""


@dataclass(frozen=True)
class MatchFeatures(Options):
    """Features of the student that follow a teacher's.

    student, teacher: names of the modules whose outputs they are; "" is the whole network.
    kind:   "hint" (`hints.hint_loss`, through a learned projection where channels differ), "attention"
            (`attention_transfer`), "distance" or "angle" (`relational`).
    weight: of this loss, >= 0.
    number: which teacher, from 0.
    """

    name: ClassVar[str] = "match"

    student: str = ""
    teacher: str = ""
    kind: str = "hint"
    weight: float = 1.0
    number: int = 0

    def __post_init__(self) -> None:
        for option in ("student", "teacher"):
            if not isinstance(getattr(self, option), str):
                raise UsageError(f"match: {option} must be the name of a module, got {getattr(self, option)!r}")
        self.check_choice("kind", KINDS)
        self.check_number("weight", 0.0, float("inf"))
        self.check_integer("number", 0, 2**31)

    def __str__(self) -> str:
        return f"{self.kind} of {self.student!r} and teacher {self.number}'s {self.teacher!r}"


@dataclass(frozen=True)
class Distill(Options):
    """How a student learns from its teachers.

    temperature: t > 0 of soft targets; Hinton et al. use 2.5 to 20.
    weight:   w in [0, 1], the share of the soft targets; the task's own loss (labels) has the rest.
    ensemble: what several teachers' mean is taken of: "probabilities" or "logits" (`ensembles`).
    classes:  whether outputs are logits of classes; others are compared by `relative_error`. None for what they look
              like (`calibration.default_objective`), as embeddings do, too.
    matches:  features that follow a teacher's.
    rate:     learning rate of the projections, where a session trains them.
    """

    name: ClassVar[str] = "distill"

    temperature: float = 4.0
    weight: float = 0.9
    ensemble: Mean = "probabilities"
    classes: bool | None = None
    matches: tuple[MatchFeatures, ...] = ()
    rate: float = 1e-3

    def __post_init__(self) -> None:
        self.check_number("temperature", 0.0, float("inf"), open_low=True)
        self.check_number("weight", 0.0, 1.0)
        self.check_number("rate", 0.0, float("inf"))
        self.check_choice("ensemble", ("probabilities", "logits"))
        if self.classes is not None:
            self.check_flag("classes")
        if not isinstance(self.matches, Sequence) or isinstance(self.matches, str):
            raise UsageError(f"{self.name}: matches must be a list of MatchFeatures, got {self.matches!r}")
        found = [MatchFeatures.from_dict(match) if isinstance(match, Mapping) else match for match in self.matches]
        for match in found:
            if not isinstance(match, MatchFeatures):
                raise UsageError(f"{self.name}: matches must be a list of MatchFeatures, got {match!r}")
        object.__setattr__(self, "matches", tuple(found))


class Distillation(nn.Module):
    """The loss of a student with its teachers. Its parameters are the projections of hints, for an optimizer to train.

    In a session: `tersor.prepare(student, recipe, distillation=Distillation(student, teachers))`.

    student:  watched by hooks on the modules that matches name, until `close`; nothing else of it changes.
    teachers: one or several; they run in evaluation mode, without gradients, and are as they were after each call.
              They are no part of the state_dict.
    example_inputs: a batch, as `calibration.collect` takes them; needed where there are matches, whose modules' shapes
              it shows. The seed draws the projections.

    `last` holds the parts of the last loss by name, without gradients and unweighted.
    Raises UsageError for modules that are not there, or arguments that miss; MismatchError where features cannot be
    matched.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: nn.Module | Sequence[nn.Module],
        config: Distill | None = None,
        *,
        example_inputs: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if config is not None and not isinstance(config, Distill):
            raise UsageError(f"distillation: config must be Distill(temperature=..., weight=...), got {config!r}")
        self.config = config or Distill()
        # A tuple is no submodule: neither parameters nor modes of the teachers are this module's.
        self.teachers = as_teachers("distillation", teachers)
        self.projections = nn.ModuleDict()
        self.last: dict[str, Tensor] = {}
        self.rate = self.config.rate
        self._seed = seed
        self._example = example_inputs
        self._check(student)
        matches = self.config.matches
        self._student = Taps(student, [match.student for match in matches], "the student", graded=True)
        try:
            self.project(student)
        except BaseException:
            self.close()
            raise

    def forward(
        self, inputs: Any, outputs: Any, task_loss: Tensor | None = None, *, answers: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The loss L, a scalar with gradients for the student and the projections.

        inputs:    the batch that the student was called with; what the teachers are called with.
        outputs:   what the student gave, in the call just before.
        task_loss: the loss with labels; None leaves that part out.
        answers:   the teachers' outputs for these inputs, one a teacher, if they are known (`cached_answers`); teachers
                   then run for matches only.
        Raises MismatchError, saying of which teacher or match, where shapes differ; CalibrationError where a teacher
        rejects the inputs or gives NaN or Inf, or the student was not called before; UsageError for a loss or answers
        that are no tensors.
        """
        if task_loss is not None and not isinstance(task_loss, Tensor):
            raise UsageError(f"distillation: task_loss must be a tensor with a gradient, got {task_loss!r}")
        found, features = self._ask(inputs, answers)
        parts = {"soft": self._soft(outputs, found)}
        loss = self.config.weight * parts["soft"]
        if task_loss is not None:
            parts["task"] = task_loss
            loss = loss + (1 - self.config.weight) * task_loss
        for index, match in enumerate(self.config.matches):
            own = self._student.take(match.student)
            parts[str(match)] = part = self._matched(index, match, own, features[index])
            loss = loss + match.weight * part
        self._student.forget()
        self.last = {name: part.detach() for name, part in parts.items()}
        return loss

    def project(self, student: nn.Module) -> None:
        """Makes the projections anew, for the channels that the student's features have now, with random weights.

        Raises as the class does; projections are as they were then.
        """
        if not self.config.matches:
            return
        before, self.projections = self.projections, nn.ModuleDict()
        try:
            self._project(student)
        except BaseException:
            self.projections = before
            raise

    def close(self) -> None:
        """Removes the hooks from the student."""
        self._student.close()

    def _check(self, student: nn.Module) -> None:
        if not isinstance(student, nn.Module):
            raise UsageError(f"distillation: the student must be an nn.Module, got {type(student).__name__}")
        for number, teacher in enumerate(self.teachers):
            if any(part is student for part in teacher.modules()):
                raise UsageError(f"distillation: teacher {number} is the student itself, or holds it; give a copy")
        for match in self.config.matches:
            if match.number >= len(self.teachers):
                raise UsageError(f"distillation, {match}: there are only {len(self.teachers)} teachers, counted from 0")

    def _project(self, student: nn.Module) -> None:
        """Projections for hints whose channels differ."""
        if self._example is None:
            raise UsageError("distillation: matches of features need example_inputs, a batch of samples")
        _, features = self._ask(self._example, None)
        with untouched(student, self._seed), torch.enable_grad():
            call(student, self._example, 0)
        for index, match in enumerate(self.config.matches):
            own, wanted = self._student.take(match.student), features[index]
            if match.kind == "hint" and (own.dim() != wanted.dim() or channels(own) != channels(wanted)):
                try:
                    learned = projection(own.shape, wanted.shape, self._seed + index)
                except MismatchError as error:
                    raise MismatchError(f"distillation, {match}: {error}") from error
                self.projections[str(index)] = learned.to(own.device)
            with torch.no_grad():
                self._matched(index, match, own, wanted)
        self._student.forget()

    def _ask(self, inputs: Any, answers: Sequence[Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
        """(each teacher's output, the teacher's features of each match), all finite."""
        if answers is not None and not (
            isinstance(answers, (list, tuple)) and all(isinstance(each, Tensor) for each in answers)
        ):
            raise UsageError(
                f"distillation: answers must be a list of tensors, one a teacher, got {type(answers).__name__}"
            )
        if answers is not None and len(answers) != len(self.teachers):
            raise MismatchError(f"distillation: {len(self.teachers)} teachers, but answers of {len(answers)}")
        found: list[Tensor] = [] if answers is None else list(answers)
        features: dict[int, Tensor] = {}
        for number, teacher in enumerate(self.teachers):
            wanted = {index: m.teacher for index, m in enumerate(self.config.matches) if m.number == number}
            if answers is not None and not wanted:
                continue
            with ExitStack() as stack:
                stack.enter_context(untouched(teacher, self._seed))
                stack.enter_context(torch.no_grad())
                taps = Taps(teacher, wanted.values(), f"teacher {number}", graded=False)
                stack.callback(taps.close)
                output = _answer(teacher, inputs, number)
                features |= {index: taps.take(name) for index, name in wanted.items()}
            if answers is None:
                found.append(output)
        for number, answer in enumerate(found):
            _check_finite(f"the output of teacher {number}", answer)
        for index, match in enumerate(self.config.matches):
            _check_finite(f"the teacher's features of {match}", features[index])
        return found, [features[index] for index in range(len(self.config.matches))]

    def _soft(self, outputs: Any, answers: Sequence[Tensor]) -> Tensor:
        try:
            student, config = main_output(outputs), self.config
        except TersorError as error:
            raise type(error)(f"distillation, outputs, what the student gave: {error}") from error
        for number, answer in enumerate(answers):
            if answer.shape != student.shape:
                raise MismatchError(
                    f"distillation: the output of teacher {number} has shape {tuple(answer.shape)}, the student's "
                    f"{tuple(student.shape)}; both must speak of the same samples and classes"
                )
        there = [answer.to(student.device) for answer in answers]
        classes = has_classes(student) if config.classes is None else config.classes
        mean = ensemble_logits(there, config.temperature, config.ensemble) if classes else ensemble_values(there)
        return default_distance(config.temperature, classes)(student, mean)

    def _matched(self, index: int, match: MatchFeatures, own: Tensor, wanted: Tensor) -> Tensor:
        if str(index) in self.projections:
            own = self.projections[str(index)](own)
        try:
            return KINDS[match.kind](own, wanted)
        except MismatchError as error:
            raise MismatchError(f"distillation, {match}: {error}") from error


def _answer(teacher: nn.Module, inputs: Any, number: int) -> Tensor:
    """What a teacher gives for a batch. Errors say of which teacher."""
    try:
        return main_output(call(teacher, inputs, 0))
    except TersorError as error:
        raise type(error)(f"distillation, teacher {number} with the student's inputs: {error}") from error


def _check_finite(what: str, values: Tensor) -> None:
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise CalibrationError(
            f"distillation: {values.numel() - int(finite.sum())} of {values.numel()} values of {what} are NaN or Inf, "
            "of which nothing can be learned; look at the batch, and at the teacher's weights"
        )
