"""BinaryConnect (Courbariaux et al. 2015): binary weights forward and backward, real ones for the updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.layers import geometry
from tersor.matrices import float_matrix
from tersor.quantization import Binarize, RepresentationConfig
from tersor.quantization.config import owned_mask
from tersor.simulation.base import Clock, Simulation, Training
from tersor.simulation.fitting import checked
from tersor.simulation.straight_through import straight_through
from tersor.tensors import Binary


@dataclass(frozen=True)
class BinaryConnect(Training):
    """`Binarize` with one constant H a tensor: w = +H or -H, whatever the representation's granularity.

    stochastic: +H with probability clip((W / C + 1) / 2, 0, 1) at each use in training mode (equations 2 and 3); the
                sign of W in evaluation mode, and always if False (equation 1). Random numbers come from torch's global
                generator.
    magnitude:  H: "glorot" for the layer's coefficient C = sqrt(1.5 / (fan in + fan out)) (Glorot and Bengio 2010), or
                "one", for networks that normalise what follows.
    rate:       not used: nothing of its own is trained.

    What is stored is clipped to [-C, C] after each step (section 2.4). The paper clips to [-1, 1] and multiplies the
    learning rates of weights by 1 / C for Adam and 1 / C^2 for SGD (section 2.5); C as the range does the same to any
    optimizer, so that rates are given as for the paper's: nothing is to be scaled by the user.
    """

    name: ClassVar[str] = "binary_connect"

    stochastic: bool = False
    magnitude: str = "glorot"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_flag("stochastic")
        self.check_choice("magnitude", ("glorot", "one"))

    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> ConnectedSigns:
        """See the base class."""
        checked(self, representation, Binarize, weight, mask)
        bound = glorot(weight)
        scale = torch.tensor(bound if self.magnitude == "glorot" else 1.0, device=weight.device)
        return ConnectedSigns(scale, bound, self.stochastic)


def glorot(weight: Tensor) -> float:
    """sqrt(1.5 / (fan in + fan out)) of a weight (O, I, ...): what the paper's networks start within.

    Rounded to 8 significant bits, so that it takes two bytes in a file.
    """
    shape = geometry(weight.shape)
    bound = math.sqrt(1.5 / ((shape.rows + shape.columns) * shape.kernel))
    return torch.tensor(bound).to(torch.bfloat16).item()


class ConnectedSigns(Simulation):
    """w = H b, b = +-1 of W, with the gradient of H W / C. scale: H, float32 (). bound: C."""

    scale: Tensor

    def __init__(self, scale: Tensor, bound: float, stochastic: bool) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.bound = bound
        self.stochastic = stochastic

    def forward(self, weight: Tensor) -> Tensor:
        """See the base class."""
        stored = weight.to(torch.float32)
        if self.stochastic and self.training:
            positive = torch.bernoulli(hard_sigmoid(stored.detach() / self.bound)) > 0
        else:
            positive = stored >= 0
        values = torch.where(positive, self.scale, -self.scale)
        return straight_through(values, stored * (self.scale / self.bound)).to(weight.dtype)

    @torch.no_grad()
    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """Clips what is stored: beyond, it would have no influence."""
        weight.clamp_(-self.bound, self.bound)

    def _compressed(self, weight: Tensor, mask: Tensor | None) -> Binary:
        """See the base class."""
        scale = self.scale.to("cpu", torch.float32).reshape(1, 1)
        return Binary(weight.shape, weight.dtype, owned_mask(mask), positive_signs(weight), scale)


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1), equation 3."""
    return ((x + 1) / 2).clamp(0.0, 1.0)


def positive_signs(weight: Tensor) -> Tensor:
    """bool on the CPU, True where the weight is not negative; zero counts as positive, as in `Binarize`."""
    return torch.from_numpy(float_matrix(weight) >= 0).reshape(weight.shape)
