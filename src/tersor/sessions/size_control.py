"""The multiplier of rate-aware training, moved while the network trains, so that one training ends at a size.

    e_k = ln(S_k / S*(t_k)),    ln p_k = K_P e_k + K_I (e_1 + ... + e_k)

S_k are the bytes that the trained weights would take in a file now, S*(t) those that they should, and p the pressure,
a factor of the multiplier. A proportional-integral controller (Astrom & Hagglund 2006, Advanced PID Control, chapter 3)
in logarithms, since sizes fall about as a power of the multiplier. From the first size S_0 to the goal B they should go

    S*(t) = S_0 (B_t / S_0)^(1 - (1 - min(t / a, 1))^2),    B_t = B k^((1 - max(t, a)) / (1 - a)) :

fast at first, ever more slowly until the share a of the training is over, above the goal then, by the factor k, and
down to it in the end. Weights that go to zero and come back all the time stay there when the learning rate falls: sizes
fall by themselves then, by some percent, whatever the multiplier, and hardly rise again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from tersor.container.writer import Entry, file_bytes
from tersor.errors import UsageError
from tersor.sessions.arguments import is_number, is_positive
from tersor.sessions.plan import plain_name
from tersor.shrinking.holding import Mask
from tersor.simulation.rate import RateSimulation

if TYPE_CHECKING:
    from tersor.sessions.session import Session

_PROPORTIONAL, _INTEGRAL = 6.0, 0.8
"""K_P and K_I, for some 50 measurements a training: sizes follow the multiplier within two to ten of them, to its power
of -0.8, and not at all as long as it is too low to matter."""

_SLACK = 1.08
"""k: LeNet-300-100 ended at 0.92 to 0.96 of the goal without it, and ends at 0.97 to 1.00 at no greater error."""

_MOST = math.log(1000.0)
"""Of |ln p|, and of what the integral adds to it: a size that does not answer must not wind it up."""


def wanted_bytes(
    first: float, goal: float, part: float, arrives: float, power: float = 2.0, slack: float = _SLACK
) -> float:
    """S*(t) in bytes, for the share t = `part` of a training, a = `arrives`, and k = `slack`.

    power: of what is left of the way, 2 in the equation; 1 falls by the same share in each step.
    """
    left = 0.0 if arrives == 0 else 1.0 - min(part / arrives, 1.0)
    rest = 0.0 if arrives == 1 else (1.0 - max(part, arrives)) / (1.0 - arrives)
    return first * (goal * slack**rest / first) ** (1.0 - left**power)


def steered(
    size: float, wanted: float, total: float, proportional: float = _PROPORTIONAL, integral: float = _INTEGRAL
) -> tuple[float, float]:
    """(ln p, the sum of errors): the controller's equation, K_P and K_I. total: the sum of the errors before."""
    error = math.log(max(size, 1.0) / wanted)
    limit = _MOST / integral
    total = min(max(total + error, -limit), limit)
    return min(max(proportional * error + integral * total, -_MOST), _MOST), total


@torch.no_grad()
def rate_bytes(model: nn.Module) -> int:
    """The size of a `.tsr` file of all that `model` trains rate-aware, as it stands now, and of nothing else."""
    entries = []
    for name, chain, simulation in _trained(model):
        mask = next((part.mask for part in chain if isinstance(part, Mask)), None)
        stored = chain.original
        assert isinstance(stored, Tensor)
        entries.append(Entry(plain_name(f"{name}.original"), simulation.compressed(stored.detach(), mask)))
    return file_bytes(entries)


class SizeControl:
    """Leads the network of a session to a size; it goes along with the session, and is kept in its state.

        session = tersor.prepare(network, rules, optimizer=optimizer, steps=1500)
        SizeControl(session, max_bytes=43_000)
        for batch in batches:
            ...; session.step()

    session:   of known `steps`, whose network holds weights that train by `RateAware`; their multipliers are where it
               starts from.
    max_bytes: of the file of these weights alone (`rate_bytes`). The training ends a little below or above it, within a
               few percent: leave room for other tensors, and a margin.
    every:     steps between measurements, each of which codes all weights; None for a 50th of the training.
    arrives:   the share of the training after which the size is nearly reached.
    Mutable: `size` is the last measured, `pressure` the factor in force.
    UsageError for what is no session, one that is over or has a SizeControl already, numbers out of range, or a network
    without such weights.
    """

    def __init__(self, session: Session, max_bytes: int, *, every: int | None = None, arrives: float = 0.5) -> None:
        model, steps = _checked(session)
        every = max(steps // 50, 1) if every is None else every
        part = is_number(arrives) and 0.0 <= arrives <= 1.0
        if not is_positive(max_bytes) or not is_positive(every) or not part:
            raise UsageError(
                "max_bytes and every must be positive integers, and arrives lie in [0, 1], "
                f"got {max_bytes!r}, {every!r} and {arrives!r}"
            )
        if not any(True for _ in _trained(model)):
            raise UsageError(
                "the session has no weights that train rate-aware: give tersor.prepare a rule with train=RateAware()"
            )
        self.model, self.max_bytes, self.steps = model, max_bytes, steps
        self.every, self.arrives = every, arrives
        self.first = self.size = rate_bytes(model)
        self.pressure = 1.0
        self._total = 0.0
        session.accompany(self)

    def step(self, done: int) -> None:
        """Measures and sets the pressure, where it is time to; see `Companion`."""
        if done % self.every:
            return
        self.size = rate_bytes(self.model)
        wanted = wanted_bytes(self.first, self.max_bytes, done / self.steps, self.arrives)
        logarithm, self._total = steered(self.size, wanted, self._total)
        self.pressure = math.exp(logarithm)
        for _, _, simulation in _trained(self.model):
            simulation.pressure.fill_(self.pressure)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; the pressure in force is in the network's own state, too."""
        return {"first": self.first, "size": self.size, "pressure": self.pressure, "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.first, self.size = state["first"], state["size"]
        self.pressure, self._total = state["pressure"], state["total"]


def _checked(session: Session) -> tuple[nn.Module, int]:
    """Model and steps of a session that can be led to a size."""
    model = getattr(session, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(session, "accompany"):
        raise UsageError(f"SizeControl takes the session that tersor.prepare gives, got a {type(session).__name__}")
    if session.over:
        raise UsageError("the session is over: finalize() ended it; prepare the model again, and control that session")
    if session.steps is None:
        raise UsageError("SizeControl needs to know how long the training is: give tersor.prepare steps=")
    if any(isinstance(companion, SizeControl) for companion in session.companions):
        raise UsageError("the session has a SizeControl already, and two would work against each other; keep one")
    return model, session.steps


def _trained(model: nn.Module) -> Iterator[tuple[str, ParametrizationList, RateSimulation]]:
    """(name, parametrizations, the simulation) of each weight that trains rate-aware, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], RateSimulation):
            yield name, module, module[0]
