"""RateAware: a network learns to be small. The loss counts the bits that the file will take.

    w_q = s round(w / s),    loss + multiplier x bits(w / s)

with a step s for each tensor that is learned, too, and bits by the contexts of the adaptive coder (bits.py), fitted
again to the codes every few steps. Entropy-penalised training: Oktay et al. 2020, Scalable Model Compression by Entropy
Penalized Reparameterization; Wiedemann et al. 2019, Entropy-Constrained Training of Deep Neural Networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.quantization import Quantize
from tersor.quantization.config import RepresentationConfig
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.bits import Bits, Contexts, fit_contexts
from tersor.simulation.fitting import checked
from tersor.tensors import Uniform


@dataclass(frozen=True)
class RateAware(Training):
    """Trains a uniform representation of one step a tensor, weights or biases, for the bits that it takes in a file.

    multiplier: loss (nats, as a rule) that a bit is worth. LeNets on MNIST end at a few kilobytes with 1e-5.
    ramp:       share of the training over which the multiplier rises from 0, in a straight line.
    settle:     share of the training, at its end, in which zeros stay zero. Without, weights that are worth about their
                bits go to zero and come back all the time, many at once.
    refit:      steps between two fits of the contexts to the codes.
    start:      the first step, in root mean squares of the tensor.
    rate:       learning rate of the steps' natural logarithms.
    """

    name: ClassVar[str] = "rate_aware"

    rate: float = 1.5e-3
    multiplier: float = 1e-5
    ramp: float = 0.3
    settle: float = 0.0
    refit: int = 50
    start: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("multiplier", 0.0, math.inf)
        self.check_number("ramp", 0.0, 1.0)
        self.check_number("settle", 0.0, 1.0)
        self.check_integer("refit", 1, 2**31)
        self.check_number("start", 0.0, math.inf, open_low=True)

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> RateSimulation:
        """See `Training`: for `Quantize(granularity="tensor")`, symmetric. Errors as `fitting.checked`."""
        chosen = checked(self, representation, Quantize, weight, mask)
        if not chosen.symmetric or chosen.granularity != "tensor":
            raise UsageError(
                f"{self.name} learns one step a tensor: it needs the representation Quantize(granularity='tensor'), "
                f"got {chosen!r}"
            )
        return RateSimulation(self, chosen.bits, weight.detach(), mask)


class RateSimulation(Simulation):
    """See `RateAware`.

    log_step: () natural logarithm of the step, a parameter. The step itself is a bfloat16 number.
    slope, over, zeros: buffers, the `Contexts` of the bits; float32.
    pressure: () float32 buffer, a factor of the multiplier: 1, until a `sessions.SizeControl` sets it.
    """

    slope: Tensor
    over: Tensor
    zeros: Tensor
    pressure: Tensor

    def __init__(self, config: RateAware, bits: int, weight: Tensor, mask: Tensor | None) -> None:
        super().__init__()
        self.config, self.width = config, bits
        kept = weight.float() if mask is None else weight.float()[mask]
        size = config.start * float(kept.square().mean().sqrt()) if kept.numel() else 0.0
        self.log_step = nn.Parameter(torch.tensor(math.log(size or 1.0), device=weight.device))
        contexts = fit_contexts(self.codes(weight), mask)
        self.register_buffer("slope", contexts.slope)
        self.register_buffer("over", contexts.over)
        self.register_buffer("zeros", contexts.zeros)
        self.register_buffer("pressure", torch.ones((), device=weight.device))

    @property
    def contexts(self) -> Contexts:
        """What the bits are computed with."""
        return Contexts(self.slope, self.over, self.zeros)

    def step(self) -> Tensor:
        """The step s, float32 (): a bfloat16 number, with the gradient of exp(log_step)."""
        smooth = self.log_step.float().exp()
        return smooth + (smooth.detach().bfloat16().float() - smooth.detach())

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """round(w / s), within the width: float32, of the weight's shape."""
        most = 2.0 ** (self.width - 1)
        return (weight.float() / self._stored_step().float()).round_().clamp_(-most, most - 1)

    def forward(self, weight: Tensor) -> Tensor:
        """See `Simulation`. The gradient passes by the rounding, but not where codes are at the end of their range."""
        most = 2.0 ** (self.width - 1)
        rounded: Tensor = _Rounded.apply(weight.float(), self.step(), most)  # type: ignore[no-untyped-call]
        return rounded.to(weight.dtype)

    def bits(self, weight: Tensor) -> Tensor:
        """Bits of the weights, () float32, with gradients for them and for the step."""
        counted: Tensor = Bits.apply(weight.float(), self.step(), self.slope, self.over, self.zeros)  # type: ignore[no-untyped-call]
        return counted

    def penalty(self, weight: Tensor, clock: Clock) -> Tensor | None:
        """See `Simulation`: multiplier x pressure x bits; the multiplier has risen as far as the clock says."""
        risen = 1.0 if self.config.ramp == 0 else min(clock.part / self.config.ramp, 1.0)
        if risen * self.config.multiplier == 0:
            return None
        return self.bits(weight) * (self.pressure * (risen * self.config.multiplier))

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """See `Simulation`: every `refit` steps fits the contexts to the present codes; zeros stay, in the end."""
        if clock.steps is not None and clock.part > 1.0 - self.config.settle:
            # From 0 it is half a step to the next code, further than an optimizer goes at once.
            weight.mul_(self.codes(weight) != 0)
        if clock.step % self.config.refit == 0:
            self.refit(weight, mask)

    @torch.no_grad()
    def refit(self, weight: Tensor, mask: Tensor | None = None) -> None:
        """Fits the contexts to the present codes."""
        contexts = fit_contexts(self.codes(weight), mask)
        for name in ("slope", "over", "zeros"):
            getattr(self, name).copy_(getattr(contexts, name))

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Uniform:
        """See `Simulation`. Pruned weights are codes of 0: the coder knows zeros by their neighbours, with no mask."""
        codes = self.codes(weight)
        if mask is not None:
            codes = codes * mask
        base = self._stored_step().reshape(1, 1).cpu()
        dtype = torch.int8 if self.width <= 8 else torch.int16
        whole = codes.to("cpu", dtype).contiguous()
        shape, scale = weight.shape, base.float()
        return Uniform(shape, weight.dtype, None, self.width, whole, scale, None, 0, base=base)

    def _stored_step(self) -> Tensor:
        """The step as the file has it, bfloat16 ()."""
        return self.log_step.detach().float().exp().bfloat16()


class _Rounded(torch.autograd.Function):
    """s round(w / s) of codes in [-most, most - 1]; by w the gradient of the identity within the range (straight
    through, Bengio et al. 2013), by s that of Esser et al. 2020, Learned Step Size Quantization, equation 3."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, most: float) -> Tensor:
        """See the class."""
        u = weight / step
        codes = u.round().clamp_(-most, most - 1)
        inside = (u - codes).abs() <= 0.5
        ctx.save_for_backward(torch.where(inside, codes - u, codes), inside)
        return codes * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        by_step, inside = ctx.saved_tensors
        return gradients[0] * inside, (gradients[0] * by_step).sum(), None
