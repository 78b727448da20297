"""`PruneChannels`: which channels, heads and hidden units of a network are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tersor.errors import UsageError
from tersor.options import Options
from tersor.pruning.channel_criteria import channel_criterion

NORMALISATIONS = ("mean", "macs", "none")
"""How scores of different groups are made comparable (`shrinking.channels.normalised`)."""


@dataclass(frozen=True)
class PruneChannels(Options):
    """Removes channels, heads and hidden units, with all that depends on them. Exactly one of the three targets.

    ratio:      share of the units that goes, in (0, 1): of each group, or of all groups together (`scope`).
    macs:       share of the multiply-accumulates that is left at most, in (0, 1).
    parameters: share of the parameters that is left at most, in (0, 1).
    criterion:  what a unit is worth, a name of `pruning.channel_criteria.CHANNEL_CRITERIA`.
    scope:      "group": each group loses the same share; "global": the units of all groups are compared.
    balance:    what makes units of different groups comparable: "mean", their worth beside the group's mean; "macs",
                their worth for each multiply-accumulate that goes with one (Theis et al. 2018); or "none".
    normalised: also groups whose channels pass a normalisation over channels (layer norm, RMS norm): what is left
                then computes something slightly different from the masked network.
    match:      patterns of tensor names: only groups with an output of such a name lose units.
    keep:       patterns of tensor names: groups with a member of such a name keep all units.
    min_units:  units that every group keeps.
    round_to:   the units left are a multiple of it, rounded up.
                (Where a network takes the width of its heads from that of their input, groups that keep a share of
                their own would fail: all keep the same one then, a multiple of one head's, with a TersorWarning.)
    on_failure: what happens to a group whose removal does not give the masked network: "error", or "skip": it keeps
                all units, with a TersorWarning.
    seed:       of the criterion "random".
    """

    name: ClassVar[str] = "prune_channels"
    other_names: ClassVar[Mapping[str, str]] = {
        "sparsity": "ratio=sparsity, the share that goes",
        "amount": "ratio=amount, the share that goes",
        "pruning_ratio": "ratio=pruning_ratio, the share that goes",
        "density": "ratio=1 - density, the share that goes",
    }

    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    criterion: str = "l1"
    scope: str = "group"
    balance: str = "mean"
    normalised: bool = False
    match: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    min_units: int = 1
    round_to: int = 1
    on_failure: str = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        targets = {name: getattr(self, name) for name in ("ratio", "macs", "parameters")}
        given = [name for name, value in targets.items() if value is not None]
        if len(given) != 1:
            raise UsageError(f"{self.name}: exactly one of ratio, macs and parameters must be given, got {targets}")
        self.check_number(given[0], 0.0, 1.0, open_low=True)
        if targets[given[0]] == 1:
            raise UsageError(f"{self.name}: {given[0]} must be below 1, got {targets[given[0]]!r}")
        try:
            channel_criterion(self.criterion)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error
        self.check_choice("scope", ("group", "global"))
        self.check_choice("balance", NORMALISATIONS)
        self.check_choice("on_failure", ("error", "skip"))
        self.check_flag("normalised")
        self.check_patterns("match")
        self.check_patterns("keep")
        if not self.match:
            raise UsageError(f"{self.name}: match is empty, so that nothing would be removed")
        for option in ("min_units", "round_to"):
            self.check_integer(option, 1, 2**31)
        self.check_integer("seed", 0, 2**63 - 1)

    @property
    def left(self) -> float:
        """The share that is left of what the target speaks of."""
        return 1 - self.ratio if self.ratio is not None else self.macs or self.parameters or 1.0
