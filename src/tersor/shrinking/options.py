"""How pruning goes about it: the options of schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.options import Options

PATHS = ("linear", "cubic", "geometric")
"""How density falls from step to step (`pruning.schedules`)."""


@dataclass(frozen=True)
class Iterative(Options):
    """Pruning in steps, each followed by fine-tuning; the network comes back from the last step within the limits.

    Each step goes a part of the way to what the configs say; without a target below, the last one gets there.

    steps:    at most.
    path:     how the densities fall: "linear", "cubic" or "geometric" (`pruning.schedules.Schedule`).
    max_drop: what the metric may lose of the original's (`evaluate` is needed); steps end when it has lost more.
    parameters, nonzeros, macs, bytes, latency: the share of the original's that is enough, in (0, 1): steps end when
              every one that is given is met.
    """

    name: ClassVar[str] = "iterative"

    steps: int = 5
    path: str = "geometric"
    max_drop: float | None = None
    parameters: float | None = None
    nonzeros: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        self.check_integer("steps", 1, 10_000)
        self.check_choice("path", PATHS)
        if self.max_drop is not None:
            self.check_number("max_drop", 0.0, float("inf"))
        for target in self.targets:
            self.check_number(target, 0.0, 1.0, open_low=True)

    @property
    def targets(self) -> dict[str, float]:
        """The shares that are enough, by the names of `Costs`."""
        names = ("parameters", "nonzeros", "macs", "bytes", "latency")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class LayerByLayer(Options):
    """One layer (of weights) or group (of channels) after the other, each followed by fine-tuning.

    Li et al. 2017, section 3.4, compare that with pruning all at once.

    max_drop: as of `Iterative`: a layer that costs more than that is left as it was, and the next one is tried.
    """

    name: ClassVar[str] = "layer_by_layer"

    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None:
            self.check_number("max_drop", 0.0, float("inf"))


Schedule = Iterative | LayerByLayer
