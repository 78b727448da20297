"""Activations on a grid of a few bits while a network trains (Esser et al. 2020, LSQ; Bhalgat et al. 2020, LSQ+).

x' = s (clamp(round(x / s + z), low, high) - z), as an integer network computes it (`affine.py`); the gradient passes
rounding as it is, and stops where x is clamped. Legend: s the step, z the zero point, Q the codes above zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import CalibrationError, UsageError
from tersor.simulation.affine import Affine
from tersor.simulation.base import Activations, check_inputs, class_name
from tersor.simulation.observers import METHODS, Observe
from tersor.simulation.straight_through import clamped, in_units, rounded, straight_through

_SMALLEST_FACTOR = 1 / 256
"""Steps stay above this share of their first value: at zero and below they would not come back."""


@dataclass(frozen=True)
class QuantizeInputs(Activations):
    """The inputs of a layer, on a grid of one step and one zero point.

    bits:        2 to 8.
    symmetric:   zero in the middle; else where the values seen ask for it.
    steps:       "learned": trained with the network, from what the first batches showed. "observed": follow what
                 training shows, by `method`.
    method:      how the range follows from the values (`Observe`).
    batches:     training batches that the first step is taken from, with "learned".
    fixed_point: steps are powers of two.
    rate:        in shares of a step's first value.

    Before the first training batch, inputs pass as they are. Gradients of learned steps are scaled by 1 / sqrt(N Q) for
    N values a sample (LSQ, section 2.2).
    """

    name: ClassVar[str] = "quantize_inputs"

    bits: int = 8
    symmetric: bool = False
    steps: str = "learned"
    method: str = "mse"
    batches: int = 1
    fixed_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_integer("bits", 2, 8)
        self.check_choice("steps", ("learned", "observed"))
        self.check_choice("method", METHODS)
        self.check_integer("batches", 1, 2**31 - 1)
        self.check_flag("symmetric")
        self.check_flag("fixed_point")

    def simulate(self, module: nn.Module) -> QuantizedInputs:
        """See the base class: for layers with weights, but embeddings and torch's attention."""
        check_inputs(self, module)
        if not any(parameter.dim() >= 2 for parameter in module.parameters()):
            raise UsageError(f"{self.name}: it is for the inputs of layers with weights, got {class_name(module)}")
        return QuantizedInputs(self).to(next(module.parameters()).device)


class QuantizedInputs(nn.Module):
    """x -> x on its grid, of the shape and dtype of x.

    Parameters: factor float32 (), the step in units of its first value; only where it is learned.
    Buffers: unit, zero float32 (); seen int64 (), training batches; the observer's.
    """

    unit: Tensor
    zero: Tensor
    seen: Tensor

    def __init__(self, config: QuantizeInputs) -> None:
        super().__init__()
        self.config = config
        self._known = 0
        self.observer = Observe(config.bits, config.method, config.symmetric).observer()
        self.factor = nn.Parameter(torch.ones(())) if config.steps == "learned" else None
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("zero", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """CalibrationError for NaN or Inf in a batch that steps are taken from."""
        if self.training and x.numel() and (self.factor is None or not self._has_seen(self.config.batches)):
            self._follow(x)
        if not self._has_seen(1):
            return x
        low, high = self._ends()
        values, step = x.float(), self._step(x, high)
        codes = torch.clamp(rounded(values * (1.0 / step) + self.zero), low, high)
        return ((codes - self.zero) * step).to(x.dtype)

    def grid(self) -> Affine:
        """The grid that inputs are on now. CalibrationError before the first training batch."""
        if not self._has_seen(1):
            raise CalibrationError("no training batch has reached the quantizer of these inputs")
        low, high = self._ends()
        return Affine(float(self._step(torch.zeros(1), high).detach()), int(self.zero), low, high)

    def _has_seen(self, batches: int) -> bool:
        """Whether so many training batches were seen. The buffer is asked until they were, and not again: asking waits
        for devices, and breaks the graphs of compilers."""
        if self._known < batches and int(self.seen) >= batches:
            self._known = batches
        return self._known >= batches

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As any module; what was known of the buffer before is forgotten."""
        super()._load_from_state_dict(*args, **kwargs)
        self._known = 0

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """The grid for what was seen, this batch included."""
        self.observer(x)
        grid = self.observer.grid()
        self.unit.fill_(grid.scale)
        self.zero.fill_(grid.zero)
        self.seen += 1

    def _ends(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return int(self.config.symmetric), (1 << self.config.bits) - 1

    def _step(self, x: Tensor, high: int) -> Tensor:
        """float32 ()."""
        step = self.unit
        if self.factor is not None:
            codes = (high - self.zero).clamp(min=1.0)
            gain = (codes * max(x.numel() // max(len(x), 1), 1)).rsqrt() if x.dim() else 1.0
            step = in_units(clamped(self.factor, _SMALLEST_FACTOR, float("inf")), self.unit, gain)
        if self.config.fixed_point:
            step = straight_through(step.detach().log2().round().exp2(), step)
        return step
