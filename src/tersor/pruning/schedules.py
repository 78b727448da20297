"""Which density at which step: pruning in one shot, little by little, or in rounds. Pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tersor.errors import UsageError
from tersor.options import Options

KINDS = ("one_shot", "linear", "cubic", "geometric")


@dataclass(frozen=True)
class Schedule(Options):
    """The density at each step, from `initial` before `begin` to the final one from `end` on, between:

    "one_shot":  the final density, from `begin` on.
    "linear":    in equal steps.
    "cubic":     d_t = d_f + (d_i - d_f) (1 - (t - t_0) / (n dt))^3 (Zhu and Gupta 2017, To prune, or not to prune,
                 equation 1, written in densities d = 1 - s): fast while many weights are left, then ever slower.
    "geometric": the same share of what is left each time (Frankle and Carbin 2019, section 2).

    begin, end: steps, 0 <= begin < end ("one_shot": `end` is not used).
    every:      the density changes only each so many steps, counted from `begin`, and at `end`.
    """

    name: ClassVar[str] = "schedule"

    kind: str = "cubic"
    begin: int = 0
    end: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        self.check_choice("kind", KINDS)
        self.check_integer("begin", 0, 2**62)
        self.check_integer("end", 0, 2**62)
        self.check_integer("every", 1, 2**62)
        if self.kind != "one_shot" and self.end <= self.begin:
            raise UsageError(f"schedule: end must come after begin={self.begin}, got {self.end}")

    @property
    def last(self) -> int:
        """The step, counted from 1, from which on the final density holds."""
        return max(self.begin, 1) if self.kind == "one_shot" else self.end

    def density(self, step: int, final: float, initial: float = 1.0) -> float:
        """The density that holds after `step`. UsageError unless 0 < final <= initial <= 1."""
        if not 0 < final <= initial <= 1:
            raise UsageError(f"densities must obey 0 < final <= initial <= 1, got {final!r} and {initial!r}")
        if step < self.begin:
            return initial
        if self.kind == "one_shot" or step >= self.end:
            return final
        passed = (step - self.begin) // self.every * self.every / (self.end - self.begin)
        if self.kind == "linear":
            density = initial + (final - initial) * passed
        elif self.kind == "cubic":
            density = final + (initial - final) * (1 - passed) ** 3
        else:
            density = initial * (final / initial) ** passed
        return min(max(float(density), final), initial)  # rounding leaves the range by a bit

    def changes(self, step: int) -> bool:
        """Whether the density may change at `step`, so that masks are to be found anew."""
        if self.kind == "one_shot":
            return step == self.last
        return step == self.end or (self.begin < step < self.end and (step - self.begin) % self.every == 0)


@dataclass(frozen=True)
class Regrow(Options):
    """RigL (Evci et al. 2020, section 3): the smallest kept weights go, those of the largest gradients come back.

    share: of the kept weights of a tensor, at first; it falls as half a cosine (`drop_fraction`).
    every: steps between two exchanges. end: the step from which on there are none.
    """

    name: ClassVar[str] = "regrow"

    share: float = 0.3
    every: int = 100
    end: int = 1000

    def __post_init__(self) -> None:
        self.check_number("share", 0.0, 1.0, open_low=True)
        self.check_integer("every", 1, 2**62)
        self.check_integer("end", 1, 2**62)

    def due(self, step: int) -> bool:
        """Whether weights are exchanged at this step."""
        return 0 < step < self.end and step % self.every == 0


def rounds(final: float, share: float = 0.2) -> list[float]:
    """Densities after each round that prunes `share` of what is left: (1 - share)^n, the last one exactly `final`.

    Frankle and Carbin 2019, section 2 (iterative pruning, share 0.2). UsageError unless 0 < final <= 1 and
    0 < share < 1.
    """
    if not 0 < final <= 1:
        raise UsageError(f"density must be a number above 0 up to 1, got {final!r}")
    if not 0 < share < 1:
        raise UsageError(f"the share pruned in a round must be between 0 and 1, got {share!r}")
    densities: list[float] = []
    density = 1.0
    while density * (1 - share) > final * (1 + 1e-9):
        density *= 1 - share
        densities.append(density)
    return [*densities, final]


def drop_fraction(step: int, end: int, alpha: float = 0.3) -> float:
    """alpha / 2 (1 + cos(pi t / T_end)): the share of the kept weights that is dropped, and grown elsewhere.

    Evci et al. 2020, RigL, section 3 (update schedule); 0 from `end` on. UsageError unless end > 0, step >= 0 and
    0 <= alpha <= 1.
    """
    if end < 1 or step < 0 or not 0 <= alpha <= 1:
        raise UsageError(f"need end > 0, step >= 0 and 0 <= alpha <= 1, got {end!r}, {step!r} and {alpha!r}")
    return 0.0 if step >= end else alpha / 2 * (1 + math.cos(math.pi * step / end))
