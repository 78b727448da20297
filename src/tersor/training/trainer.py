"""Steps of Adam (Kingma and Ba 2015) on the distance of a student from its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.samples import call
from tersor.errors import CalibrationError
from tersor.training.distill import default_distance
from tersor.training.minibatches import pieces, shuffled
from tersor.training.settings import Recover

Progress = Callable[[str], None]
"""(what begins)"""

_BETAS = (0.9, 0.95)
_HELD = 8
"""Samples of a held-out piece: the spread of pieces' distances tells luck from gain."""

_WARM_UP = 8
"""Steps in which the learning rate rises, while Adam's moments settle."""


class Trainer:
    """A teacher with samples to learn from. Mutable: samples come in an endless shuffled order."""

    def __init__(
        self, teacher: nn.Module, options: Recover, train: list[Any], held: list[Any], progress: Progress
    ) -> None:
        self.teacher = teacher
        self.progress = progress
        self.distance = options.distance or default_distance(options.temperature, options.classes)
        self.steps = 0
        self.options = options
        self._held = [piece for batch in held for piece in pieces(batch, _HELD)]
        self._train = train
        self._generator = torch.Generator().manual_seed(options.seed)
        self._pieces = self._endless()
        self._answers: list[Any] = []

    def steps_an_epoch(self) -> int:
        """Steps in which every sample comes about once."""
        generator = torch.Generator().manual_seed(0)
        return max(sum(1 for _ in shuffled(self._train, self.options.batch, generator)), 1)

    @torch.no_grad()
    def held_distances(self, student: nn.Module) -> Tensor:
        """The distance of each held-out piece, float64 (pieces,). CalibrationError if one is not finite."""
        student.eval()
        if not self._answers:
            self._answers = [call(self.teacher, batch, index) for index, batch in enumerate(self._held)]
        distances = [
            self.distance(call(student, batch, index), answer).double().cpu()
            for index, (batch, answer) in enumerate(zip(self._held, self._answers, strict=True))
        ]
        found = torch.stack(distances)
        if not bool(torch.isfinite(found).all()):
            raise CalibrationError(
                f"recovery, after {self.steps} steps: the distance on held-out samples is {found.mean().item()}; look "
                "at the samples, or take smaller learning rates"
            )
        return found

    def next_pair(self) -> tuple[Any, Any]:
        """An augmented batch, and the teacher's answer to it."""
        batch = next(self._pieces)
        with torch.no_grad():
            if self.options.augment is not None:
                batch = self.options.augment(batch, self._generator)
            return batch, call(self.teacher, batch, self.steps)

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from shuffled(self._train, self.options.batch, self._generator)


class Descent:
    """Adam on some parameters of a student; all others stay.

    rates: learning rates by name of the parameter.
    """

    def __init__(self, trainer: Trainer, student: nn.Module, rates: Mapping[str, float]) -> None:
        self._trainer = trainer
        self._student = student.eval()
        self._parameters = dict(student.named_parameters())
        self._rates = {name: lr for name, lr in rates.items() if lr > 0}
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in self._rates)
        groups = [{"params": [self._parameters[name]]} for name in self._rates]
        self._optimizer = torch.optim.Adam(groups, betas=_BETAS) if groups else None
        self._steps = 0

    def freeze(self, name: str) -> None:
        """The parameter stays as it is from now on."""
        self._parameters[name].requires_grad_(False).grad = None

    def step(self, factor: float) -> None:
        """One step at `factor` times the learning rates. CalibrationError if the distance is NaN or Inf."""
        if not any(self._parameters[name].requires_grad for name in self._rates):
            return
        assert self._optimizer is not None
        trainer = self._trainer
        batch, answer = trainer.next_pair()
        loss = trainer.distance(call(self._student, batch, trainer.steps), answer)
        trainer.steps += 1
        self._steps += 1
        if not bool(torch.isfinite(loss)):
            raise CalibrationError(
                f"recovery, step {trainer.steps}: the distance to the teacher is {loss.item()}; look at the samples, "
                "or take smaller learning rates"
            )
        factor *= min(1.0, self._steps / _WARM_UP)
        for group, lr in zip(self._optimizer.param_groups, self._rates.values(), strict=True):
            group["lr"] = lr * factor
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def surely_smaller(distances: Tensor, others: Tensor) -> bool:
    """Whether the mean of `distances` (pieces,) is below that of `others` by more than two standard errors.

    Paired: both are of the same pieces. Of one piece alone, whether it is smaller.
    """
    gains = others - distances
    error = float(gains.std()) / math.sqrt(gains.numel()) if gains.numel() > 1 else 0.0
    return float(gains.mean()) > 2 * error


def root_mean_square(values: Tensor) -> float:
    """sqrt(E x^2), for learning rates: 1 of zeros and of nothing, which have no size to go by."""
    return float(values.detach().float().square().mean().sqrt()) or 1.0 if values.numel() else 1.0
