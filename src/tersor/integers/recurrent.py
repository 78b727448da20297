"""An LSTM whose products are of 8-bit integers, its inputs and hidden states on grids of their own, step by step.

Gates stay float: i, f, g, o = split(W_ih x + b_ih + W_hh h + b_hh); c = f c + i g; h = o tanh(c), as torch.nn.LSTM.

Legend: T steps, B samples, I inputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.errors import MismatchError
from tersor.integers.arithmetic import Weight
from tersor.integers.layers import IntegerLinear
from tersor.tensors import Uniform

_State = tuple[Tensor, Tensor]


class IntegerLSTM(nn.Module):
    """Takes the place of an nn.LSTM: the same arguments and results, packed sequences excepted."""

    def __init__(self, products: Mapping[str, IntegerLinear], hidden: int, directions: int, batch_first: bool) -> None:
        super().__init__()
        self.products = nn.ModuleDict(products)
        self.hidden = hidden
        self.directions = directions
        self.batch_first = batch_first
        self.layers = len(products) // (2 * directions)

    @classmethod
    def of(cls, module: nn.LSTM, name: str, weights: Mapping[str, Uniform | None], bits: int) -> IntegerLSTM:
        """Of an LSTM without projections. weights: codes by the name of the parameter within it."""
        products = {}
        for local, parameter in module.named_parameters():
            if "weight" not in local:
                continue
            found = weights.get(local)
            if found is None or found.shape != parameter.shape or module.proj_size:
                raise MismatchError(f"{name}: the codes are of another LSTM than {module!r}")
            bias = getattr(module, local.replace("weight", "bias")) if module.bias else torch.zeros(len(parameter))
            scale = found.scale.expand(len(parameter), 1)[:, 0].contiguous()
            weight = Weight(found.codes.clone(), scale, bias.detach().float().clone())
            products[local] = IntegerLinear(weight, None, bits)
        return cls(products, module.hidden_size, 2 if module.bidirectional else 1, module.batch_first)

    def forward(self, x: Tensor, hx: _State | None = None) -> tuple[Tensor, _State]:
        """x (T, B, I), (B, T, I) if batch_first, or (T, I) -> outputs, (h, c), as nn.LSTM."""
        if not isinstance(x, Tensor):
            raise MismatchError("an LSTM in integers takes tensors; pad packed sequences, and mask what is padded")
        unbatched = x.dim() == 2
        if unbatched:
            x = x[:, None]
            hx = None if hx is None else (hx[0][:, None], hx[1][:, None])
        elif self.batch_first:
            x = x.transpose(0, 1)
        finals = []
        for layer in range(self.layers):
            outputs = []
            for direction in range(self.directions):
                place = layer * self.directions + direction
                zeros = x.new_zeros(x.shape[1], self.hidden)
                state = (zeros, zeros) if hx is None else (hx[0][place], hx[1][place])
                suffix = f"_l{layer}" + "_reverse" * direction
                y, final = self._run(x.flip(0) if direction else x, state, suffix)
                outputs.append(y.flip(0) if direction else y)
                finals.append(final)
            x = torch.cat(outputs, 2)
        h, c = (torch.stack(parts) for parts in zip(*finals, strict=True))
        if unbatched:
            return x[:, 0], (h[:, 0], c[:, 0])
        return (x.transpose(0, 1) if self.batch_first else x), (h, c)

    def _run(self, x: Tensor, state: _State, suffix: str) -> tuple[Tensor, _State]:
        """One direction of one layer: x (T, B, I) in the order of time -> (T, B, H), final state."""
        h, c = state
        inputs = self.products[f"weight_ih{suffix}"](x)
        recurrent = self.products[f"weight_hh{suffix}"]
        outputs = []
        for gates in inputs:
            i, f, g, o = (gates + recurrent(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)
