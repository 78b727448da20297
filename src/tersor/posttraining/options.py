"""How calibrated compression works on a network, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.calibration import Trellis
from tersor.calibration.damping import DAMPING
from tersor.errors import UsageError
from tersor.options import Options

TECHNIQUES = ("uniform", "codebook", "sparse", "ternary", "binary", "lossless")


@dataclass(frozen=True)
class Calibrate(Options):
    """Options of calibrated compression; the defaults give the smallest files.

    sequential:   "block", "layer" or "off": how often what layers receive is measured again behind those that are
                  quantized already.
    most_stages:  how often at most, with "block": neighbouring blocks are then measured together.
    states, survivors: of the trellis (see `calibration.Trellis`); 1 state is plain rounding with feedback.
    damping:      of H, as a part of its mean diagonal.
    row_exponent: 0 to 1: how far a layer's rows may have steps of their own, by how much the loss depends on them.
    row_floor:    0 to 1: the part of a layer's mean weight that every row has at least.
    fold:         batch norms are folded into the layers before them.
    correct:      biases make up for the mean shift of what quantized layers give.
    reestimate:   batch norms that are not folded get running moments of the compressed network, where that brings its
                  outputs closer to the original's.
    techniques:   what a layer may become.
    keep:         patterns of names that stay exact.
    seed:         of the labels drawn from the network's own predictions.
    """

    name: ClassVar[str] = "calibrate"

    sequential: str = "block"
    most_stages: int = 12
    states: int = 8
    survivors: int = 4
    damping: float = DAMPING
    row_exponent: float = 0.25
    row_floor: float = 0.1
    fold: bool = True
    correct: bool = True
    reestimate: bool = False
    techniques: tuple[str, ...] = ("uniform",)
    keep: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_choice("sequential", ("block", "layer", "off"))
        self.check_integer("most_stages", 1, 1 << 20)
        self.trellis()
        self.check_number("damping", 0, 1)
        self.check_number("row_exponent", 0, 1)
        self.check_number("row_floor", 0, 1)
        self.check_flag("fold")
        self.check_flag("correct")
        self.check_flag("reestimate")
        if self.reestimate and self.fold:
            raise UsageError("calibrate: reestimate needs fold=False: folded batch norms have no moments left")
        for technique in self.techniques:
            if technique not in TECHNIQUES:
                raise UsageError(f"calibrate: unknown technique {technique!r}; there are {', '.join(TECHNIQUES)}")
        if not self.techniques:
            raise UsageError(f"calibrate: techniques must name one at least of {', '.join(TECHNIQUES)}")
        self.check_integer("seed", 0, (1 << 63) - 1)

    def trellis(self) -> Trellis:
        """The search for codes. UsageError for what it does not offer."""
        return Trellis(self.states, self.survivors)
