"""The modules of an integer network: Linear and convolutions.

Buffers: codes int8, scale and bias float32 (O,); input_grid and output_grid float64 (4,): step, zero point, smallest
and largest code of an `Affine`, or empty: inputs without a grid are put on one of their own, batch by batch, and
outputs without one are float32. So everything is in the state_dict, and no number is simulated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.errors import MismatchError
from tersor.integers import arithmetic
from tersor.integers.arithmetic import Epilogue, Weight, Window
from tersor.simulation.affine import Affine, affine


class IntegerLayer(nn.Module):
    """What linear layers and convolutions share.

    bits: of the inputs' codes, where they have no grid. limits: as in `Epilogue`. takes_codes: the layer before it puts
    inputs on its grid already.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor
    input_grid: Tensor
    output_grid: Tensor

    def __init__(self, weight: Weight, grid: Affine | None, bits: int = 8) -> None:
        super().__init__()
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", weight.bias)
        self.register_buffer("input_grid", as_numbers(grid))
        self.register_buffer("output_grid", as_numbers(None))
        self.bits = bits
        self.limits: tuple[float, float] | None = None
        self.takes_codes = False
        self._packed: Any = None

    def quantized(self, x: Tensor) -> tuple[Tensor, Affine]:
        """Codes of an input, and their grid. Codes that the layer before has put on it already pass."""
        grid = as_grid(self.input_grid)
        if grid is not None and self.takes_codes and x.dtype == torch.uint8:
            return x, grid
        if x.dtype != torch.float32:
            raise MismatchError(f"an integer layer takes float32, got {x.dtype}; convert the inputs of the network")
        if grid is None:
            low, high = (0.0, 0.0) if x.numel() == 0 else torch.stack(torch.aminmax(x)).tolist()
            grid = affine(low, high, self.bits)
        return grid.quantize(x), grid

    def weight_in_integers(self) -> Weight:
        """Codes, steps and bias."""
        return Weight(self.codes, self.scale, self.bias)

    def epilogue(self) -> Epilogue:
        """What becomes of the sums."""
        return Epilogue(self.limits, as_grid(self.output_grid))

    def window(self) -> Window | None:
        """How the kernel moves; None for linear layers."""
        return None

    def packed(self) -> Any:
        """The codes as the kernels want them, made at the first use."""
        if self._packed is None:
            self._packed = arithmetic.pack(self.weight_in_integers(), self.window())
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._packed = None
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Shape, and grids where they are static."""
        grid, out = as_grid(self.input_grid), as_grid(self.output_grid)
        inputs = "dynamic inputs" if grid is None else f"inputs {grid.scale:.3g} * (q - {grid.zero})"
        outputs = "" if out is None else f", outputs {out.scale:.3g} * (q - {out.zero})"
        return f"int8 {tuple(self.codes.shape)}, {inputs}{outputs}"


class IntegerLinear(IntegerLayer):
    """x (..., I) -> (..., O); float32, or codes."""

    def forward(self, x: Tensor) -> Tensor:
        """MismatchError for inputs of another size or dtype."""
        if x.dim() == 0 or x.shape[-1] != self.codes.shape[1]:
            raise MismatchError(f"a linear layer of {self.codes.shape[1]} inputs got {tuple(x.shape)}")
        codes, grid = self.quantized(x)
        return arithmetic.linear(codes, grid, self.weight_in_integers(), self.packed(), self.epilogue())


class IntegerConv(IntegerLayer):
    """x (N, channels, *spatial), or without N -> (N, O, *spatial); float32, or codes."""

    def __init__(self, weight: Weight, window: Window, grid: Affine | None, bits: int = 8) -> None:
        super().__init__(weight, grid, bits)
        self._window = window

    def window(self) -> Window:
        """How the kernel moves."""
        return self._window

    def forward(self, x: Tensor) -> Tensor:
        """MismatchError for inputs of another number of channels or dimensions, or another dtype."""
        spatial, channels = len(self._window.stride), self.codes.shape[1] * self._window.groups
        batched = x if x.dim() == spatial + 2 else x[None]
        if batched.dim() != spatial + 2 or batched.shape[1] != channels:
            raise MismatchError(f"a convolution of {channels} channels, {spatial}-d, got {tuple(x.shape)}")
        codes, grid = self.quantized(batched)
        weight, packed = self.weight_in_integers(), self.packed()
        y = arithmetic.convolution(codes, grid, weight, packed, self._window, self.epilogue())
        return y if x.dim() == spatial + 2 else y[0]


def as_numbers(grid: Affine | None) -> Tensor:
    """A grid as the buffer that holds it."""
    return torch.tensor([] if grid is None else [grid.scale, grid.zero, grid.low, grid.high], dtype=torch.float64)


def as_grid(numbers: Tensor) -> Affine | None:
    """The inverse of `as_numbers`."""
    if not numbers.numel():
        return None
    scale, zero, low, high = numbers.tolist()
    return Affine(scale, int(zero), int(low), int(high))
