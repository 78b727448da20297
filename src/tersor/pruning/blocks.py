"""`PruneBlocks`: which residual blocks of a network are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tersor.errors import UsageError
from tersor.options import Options

BLOCK_CRITERIA = ("divergence", "l1", "random")


@dataclass(frozen=True)
class PruneBlocks(Options):
    """Drops whole residual blocks: they hand on what comes in. Exactly one of the names and the four targets.

    A block that holds no other one counts; names may be of larger ones, too, such as a sequence of blocks.

    names:      of the modules that go, in this order where there are steps.
    count:      how many blocks go.
    ratio:      share of the blocks that goes, in (0, 1).
    macs:       share of the multiply-accumulates that is left at most, in (0, 1).
    parameters: share of the parameters that is left at most, in (0, 1).
    criterion:  which blocks go first: "divergence", those without which the network's outputs on the calibration
                samples move least, asked anew after each one that went (Song et al. 2024, SLEB, algorithm 1);
                "l1", those of least mean |w|; or "random", the control.
    match:      patterns of tensor names: only blocks whose parameters all have such names go.
    keep:       patterns of tensor names: blocks that hold such a parameter stay.
    seed:       of the criterion "random".
    """

    name: ClassVar[str] = "prune_blocks"

    names: tuple[str, ...] = ()
    count: int | None = None
    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    criterion: str = "divergence"
    match: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for option in ("names", "match", "keep"):
            self.check_patterns(option)
        targets: dict[str, Any] = {"names": self.names or None}
        targets |= {name: getattr(self, name) for name in ("count", "ratio", "macs", "parameters")}
        given = [name for name, value in targets.items() if value is not None]
        if len(given) != 1:
            raise UsageError(f"{self.name}: exactly one of {', '.join(targets)} must be given, got {targets}")
        if self.count is not None:
            self.check_integer("count", 1, 2**31)
        elif not self.names:
            self.check_number(given[0], 0.0, 1.0, open_low=True)
            if targets[given[0]] == 1:
                raise UsageError(f"{self.name}: {given[0]} must be below 1, got {targets[given[0]]!r}")
        if self.names and (self.match != ("*",) or self.keep):
            raise UsageError(f"{self.name}: names say which blocks go; leave match and keep out")
        if not self.match:
            raise UsageError(f"{self.name}: match is empty, so that nothing would be dropped")
        self.check_choice("criterion", BLOCK_CRITERIA)
        self.check_integer("seed", 0, 2**63 - 1)
