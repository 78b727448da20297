"""How calibrated compression works on a network, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tersor.calibration import Trellis
from tersor.calibration.damping import DAMPING
from tersor.errors import UsageError
from tersor.options import Options

TECHNIQUES = ("uniform", "sparse", "codebook", "int8", "ternary", "binary", "lossless")


@dataclass(frozen=True)
class Calibrate(Options):
    """Options of calibrated compression; the defaults give the smallest files.

    sequential:   what layers receive is measured again behind those that are quantized already.
    states, survivors: of the trellis (see `calibration.Trellis`); 1 state is plain rounding with feedback.
    damping:      of H, at least, as a part of its mean diagonal; more where cross-validation asks for it.
    row_exponent: 0 to 1: how far a layer's rows may have steps of their own, by how much the loss depends on them.
    row_floor:    0 to 1: the part of a layer's mean weight that every row has at least.
    fold:         batch norms are folded into the layers before them.
    correct:      biases make up for the mean shift of what quantized layers give.
    reestimate:   batch norms that are not folded get running moments of the compressed network, where that brings its
                  outputs closer to the original's.
    recover:      "off"; "floats": biases and norms are trained to bring outputs back to the original's; "codes": codes
                  are found again, too, while the layers behind them still learn (`training.recover`).
    techniques:   what a layer may become, whichever costs least in loss + rate * bits; each that is added costs time:
                  "uniform" (steps and trellis), "sparse" (pruned, too), "codebook", "int8", "ternary", "binary",
                  "lossless".
    keep:         patterns of names that stay exact.
    outputs:      what the network gives: "logits" of classes, other "values" (embeddings, regression), or "auto":
                  logits where the last dimension (of pictures the second) could be classes.
    seed:         of the random projections of the network's outputs.
    """

    name: ClassVar[str] = "calibrate"

    sequential: bool = True
    states: int = 8
    survivors: int = 4
    damping: float = DAMPING
    row_exponent: float = 0.25
    row_floor: float = 0.1
    fold: bool = True
    correct: bool = True
    reestimate: bool = False
    recover: str = "off"
    techniques: tuple[str, ...] = ("uniform",)
    keep: tuple[str, ...] = ()
    outputs: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_flag("sequential")
        self.trellis()
        self.check_number("damping", 0, 10)
        self.check_number("row_exponent", 0, 1)
        self.check_number("row_floor", 0, 1)
        self.check_flag("fold")
        self.check_flag("correct")
        self.check_flag("reestimate")
        self.check_choice("outputs", ("auto", "logits", "values"))
        self.check_choice("recover", ("off", "floats", "codes"))
        if self.reestimate and self.fold:
            raise UsageError("calibrate: reestimate needs fold=False: folded batch norms have no moments left")
        for option in ("techniques", "keep"):
            value = getattr(self, option)
            if isinstance(value, str) or not all(isinstance(part, str) for part in value):
                raise UsageError(f"calibrate: {option} must be a tuple of texts, got {value!r}")
        for technique in self.techniques:
            if technique not in TECHNIQUES:
                raise UsageError(f"calibrate: unknown technique {technique!r}; there are {', '.join(TECHNIQUES)}")
        if not self.techniques:
            raise UsageError(f"calibrate: techniques must name one at least of {', '.join(TECHNIQUES)}")
        self.check_integer("seed", 0, (1 << 63) - 1)

    @property
    def classes(self) -> bool | None:
        """Whether outputs are logits of classes; None for what they look like."""
        return None if self.outputs == "auto" else self.outputs == "logits"

    def trellis(self) -> Trellis:
        """The search for codes. UsageError for what it does not offer."""
        return Trellis(self.states, self.survivors)
