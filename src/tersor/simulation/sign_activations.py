"""Binary activations (Hubara et al. 2016, Binarized Neural Networks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.simulation.base import Activations, check_inputs, class_name
from tersor.simulation.straight_through import signs

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class SignActivations(Activations):
    """The layer sees the signs of its inputs: +1 where x >= 0, else -1, in training and in evaluation.

    The gradient is that of x where |x| <= 1, else 0 (equation 4): normalise inputs before (BatchNorm), and leave out
    the first layer, whose inputs are data. Convolutions pad with zeros, as ever.

    rate: not used: nothing of its own is trained.
    """

    name: ClassVar[str] = "sign_activations"

    def simulate(self, module: nn.Module) -> Signs:
        """See the base class: for linear layers and convolutions."""
        check_inputs(self, module)
        if not isinstance(module, LAYERS):
            known = ", ".join(layer.__name__ for layer in LAYERS)
            raise UsageError(f"{self.name}: it is for the inputs of {known}, got {class_name(module)}")
        return Signs()


class Signs(nn.Module):
    """x -> +1 or -1, of the shape and dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return signs(x)
