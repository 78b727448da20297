"""What all techniques of compression during training share.

A simulation stands between a stored weight W, which the optimizer moves in floating point, and the weight that the
network computes with, which is what the file will hold. It is a parametrization (`torch.nn.utils.parametrize`), so that
its parameters and buffers (steps, centroids, assignments) are part of the network's state_dict.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from tersor.errors import UsageError
from tersor.matrices import NonFiniteError
from tersor.options import Options
from tersor.quantization import RepresentationConfig
from tersor.tensors import CompressedTensor


@dataclass(frozen=True)
class Clock:
    """How far training is. step: optimizer steps done since the simulation began. steps: in all, None if unknown."""

    step: int
    steps: int | None = None

    @property
    def part(self) -> float:
        """The share of the training that is over, 0 to 1; 1 where the number of steps is not known."""
        return 1.0 if self.steps is None else min(self.step / max(self.steps, 1), 1.0)


class Simulation(nn.Module):
    """A parametrization: stored weight W -> the weight as it will be stored in the file.

    Subclasses compute `forward` with gradients for W and for their own parameters; whatever else they keep is in
    buffers, so that training goes on from a state_dict bit by bit. They are pickled, copied and compiled like any
    module, and know neither the network nor the optimizer.
    """

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the network computes with, of the shape and dtype of W."""

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is stored when a weight is assigned."""
        return weight

    def penalty(self, weight: Tensor, clock: Clock) -> Tensor | None:
        """A scalar to add to the loss, with gradients for W (stored) and own parameters; None for nothing."""
        return None

    def after_step(self, weight: Tensor, mask: Tensor | None, clock: Clock) -> None:
        """After an optimizer's step, without gradients: clips or refits, changing W and own state in place."""

    @torch.no_grad()
    def compressed(self, weight: Tensor, mask: Tensor | None) -> CompressedTensor:
        """What the file stores for the stored weight W: where `mask` (bool, None keeps all) is True, its
        `dequantize()` is exactly the `forward(weight)` of evaluation mode, and zero elsewhere.

        NonFiniteError for NaN or Inf in W or in what the simulation keeps: rounded, they would be ordinary numbers.
        """
        for name, tensor in (("weights", weight), *self.named_parameters(), *self.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = tensor.numel() - int(torch.isfinite(tensor).sum())
                raise NonFiniteError(
                    f"{bad} of {tensor.numel()} values of the trained {name} are NaN or Inf: lower the learning rate, "
                    "or go on from an earlier state"
                )
        return self._compressed(weight, mask)

    @abstractmethod
    def _compressed(self, weight: Tensor, mask: Tensor | None) -> CompressedTensor:
        """What `compressed` gives, of numbers that are finite; without gradients."""


@dataclass(frozen=True)
class Training(Options):
    """Base of the configs: how a representation is trained.

    begin: optimizer steps of the session before the simulation takes the weight's place; it is fitted to the weight
           that stands then.
    rate:  learning rate of the simulation's own parameters (steps, centroids, levels), in units that the config states.
    """

    begin: int = 0
    rate: float = 1e-3

    def __post_init__(self) -> None:
        self.check_integer("begin", 0, 2**62)
        self.check_number("rate", 0.0, float("inf"))

    @abstractmethod
    def simulate(self, weight: Tensor, representation: RepresentationConfig, mask: Tensor | None) -> Simulation:
        """The simulation of `representation`, fitted to `weight` (float, on any device) where `mask` (bool) is True.

        UsageError for a representation that this kind of training is not for.
        """


TAKE_INDICES = (nn.Embedding, nn.EmbeddingBag)
"""Layers with weights whose inputs are no numbers: there is nothing to quantize, whatever a pattern says."""


def class_name(module: nn.Module) -> str:
    """What the module's class was called before parametrizations gave it one of its own."""
    own = type(module)
    return (own.__bases__[0] if parametrize.is_parametrized(module) else own).__name__


def check_inputs(config: Activations, module: nn.Module) -> None:
    """UsageError for layers whose inputs no quantizer reaches: embeddings, and all of torch's attention."""
    kind = class_name(module)
    if isinstance(module, TAKE_INDICES):
        raise UsageError(f"{config.name}: the inputs of {kind} are indices, not numbers")
    if isinstance(module, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear)):
        raise UsageError(
            f"{config.name}: torch's MultiheadAttention computes its projections by itself, so that the inputs of "
            "key, value and out_proj could not be quantized; name the other layers, or write attention with nn.Linear"
        )


@dataclass(frozen=True)
class Activations(Options):
    """Base of the configs: how the inputs of a layer are quantized while the network trains.

    begin: optimizer steps of the session before the quantizer takes the inputs' place.
    rate:  learning rate of the quantizer's own parameters.
    """

    begin: int = 0
    rate: float = 1e-3

    def __post_init__(self) -> None:
        self.check_integer("begin", 0, 2**62)
        self.check_number("rate", 0.0, float("inf"))

    @abstractmethod
    def simulate(self, module: nn.Module) -> nn.Module:
        """The quantizer of the inputs of `module`: called with its first positional argument, a float tensor, it
        gives what the layer will see, of the same shape and dtype, with gradients. UsageError for modules that it is
        not for."""
