"""Products of 8-bit codes, summed in 32 bits: what a layer of an integer network computes.

y[o] = f(s_x s_o * sum_n (q[n] - zero) c[o, n] + b[o]), with codes q (uint8) of the inputs and c (int8) of the weights.

The kernels are oneDNN's, as torch ships them. On CPUs without VNNI they add pairs of products in 16 bits, which
saturate: `weights.py` chooses steps with which no pair does, so that sums are exact on every machine. Where torch has
no oneDNN, the same sums are taken in float64, exactly and slowly.

Legend: N samples, O outputs, I inputs of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.simulation.affine import Affine

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves. Sequences have one number a spatial dimension.

    before, after: zeros around the input. stride, dilation, groups: as in torch.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def padded(self, codes: Tensor, zero: int) -> tuple[Tensor, tuple[int, ...]]:
        """Codes with the code of zero around them, where torch cannot pad by itself; what is left for it to pad."""
        if self.before == self.after:
            return codes, self.before
        sides = [side for pair in reversed(list(zip(self.before, self.after, strict=True))) for side in pair]
        return F.pad(codes, sides, value=zero), (0,) * len(self.before)


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the sums.

    limits: (low, high) that outputs are clamped to, as ReLU (0, inf) and ReLU6 (0, 6) do; None for no limits.
    grid:   outputs are codes of this grid (uint8); None for float32.
    """

    limits: tuple[float, float] | None = None
    grid: Affine | None = None

    def apply(self, y: Tensor) -> Tensor:
        """The obvious way: for float outputs `y`."""
        if self.limits is not None:
            y = y.clamp(*self.limits)
        return y if self.grid is None else self.grid.quantize(y)

    def arguments(self) -> tuple[float, int, torch.dtype, str, list[float], str]:
        """What oneDNN takes: step and zero point of the outputs, dtype, operation, its numbers, algorithm."""
        scale, zero, dtype = 1.0, 0, torch.float32
        if self.grid is not None:
            scale, zero, dtype = self.grid.scale, self.grid.zero, torch.uint8
        if self.limits is None:
            return scale, zero, dtype, "none", [], ""
        if self.limits == (0.0, float("inf")):
            return scale, zero, dtype, "relu", [], ""
        return scale, zero, dtype, "hardtanh", list(self.limits), ""


@dataclass(frozen=True)
class Weight:
    """A weight in integers. codes: int8 (O, I, *kernel). scale: float32 (O,), steps of the rows. bias: float32 (O,)."""

    codes: Tensor
    scale: Tensor
    bias: Tensor


def available() -> bool:
    """Whether this torch has oneDNN's integer products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv_pointwise")


def pack(weight: Weight, window: Window | None) -> Any:
    """The codes arranged as the kernels want them; None where those are missing. window: None for a linear layer."""
    if not available():
        return None
    if window is None:
        return torch.ops.onednn.qlinear_prepack(weight.codes, None)
    # The step and zero point of the inputs are those of each call; packing does not depend on them.
    return torch.ops.onednn.qconv_prepack(
        weight.codes, weight.scale, 1.0, 0, window.stride, window.before, window.dilation, window.groups, None
    )


def linear(codes: Tensor, grid: Affine, weight: Weight, packed: Any, epilogue: Epilogue) -> Tensor:
    """codes uint8 (..., I) on `grid` -> (..., O), float32 or uint8 as `epilogue` says. packed: of `pack`."""
    if packed is None:
        sums = F.linear(codes.double() - grid.zero, weight.codes.double())
        return _finished(sums, grid, weight, epilogue, -1)
    zeros = torch.zeros(len(weight.scale), dtype=torch.int32)
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, grid.scale, grid.zero, packed, weight.scale, zeros, weight.bias, *epilogue.arguments()
    )
    return _limited(y, epilogue)


def convolution(codes: Tensor, grid: Affine, weight: Weight, packed: Any, window: Window, epilogue: Epilogue) -> Tensor:
    """codes uint8 (N, G I, *spatial) on `grid` -> (N, O, *spatial), float32 or uint8. packed: of `pack`."""
    codes, sides = window.padded(codes, grid.zero)
    if packed is None:
        convolve = _CONVOLUTIONS[len(sides) - 1]
        centred, weights = codes.double() - grid.zero, weight.codes.double()
        sums = convolve(centred, weights, None, window.stride, sides, window.dilation, window.groups)
        return _finished(sums, grid, weight, epilogue, 1)
    zeros = torch.zeros(len(weight.scale), dtype=torch.int32)
    moves: tuple[Sequence[int] | int, ...] = (window.stride, sides, window.dilation, window.groups)
    y: Tensor = torch.ops.onednn.qconv_pointwise(
        codes, grid.scale, grid.zero, packed, weight.scale, zeros, weight.bias, *moves, *epilogue.arguments()
    )
    return _limited(y, epilogue)


def _finished(sums: Tensor, grid: Affine, weight: Weight, epilogue: Epilogue, dimension: int) -> Tensor:
    """Float outputs of exact sums, float64, whose dimension `dimension` is O."""
    shape = [1] * sums.dim()
    shape[dimension] = -1
    steps = (weight.scale * grid.scale).double().reshape(shape)
    return epilogue.apply((sums * steps + weight.bias.double().reshape(shape)).float())


def _limited(y: Tensor, epilogue: Epilogue) -> Tensor:
    """Codes within the ends of a grid that has fewer than 256."""
    grid = epilogue.grid
    if grid is None or (grid.low, grid.high) == (0, 255):
        return y
    return y.clamp_(grid.low, grid.high)
