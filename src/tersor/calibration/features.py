"""The input vectors that a weight multiplies, as views of a layer's input: nothing is copied before it is needed.

Legend: B samples, G groups, P positions, N inputs of a row, C channels, D sizes of the input, k kernel sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Features:
    """Vectors x of all samples and positions.

    view:      (B, G, *positions, *inputs), of any strides and float dtype.
    positions: how many dimensions of `view` are positions; at least one.
    flipped:   dimensions of `view` that are read backwards (a tensor has no negative strides).
    """

    view: Tensor
    positions: int
    flipped: tuple[int, ...] = ()

    @property
    def version(self) -> int:
        """Counts the in-place changes of what is viewed."""
        return self.view._version

    def copy(self) -> Features:
        """The same features of a copy of the layer's input (not of its overlapping windows)."""
        view, storage = self.view, self.view.untyped_storage().clone()
        own = torch.empty(0, dtype=view.dtype, device=view.device)
        own.set_(storage, view.storage_offset(), view.shape, view.stride())
        return Features(own, self.positions, self.flipped)

    def drawn(self, limit: int, generator: torch.Generator) -> Tensor | None:
        """Places of the first dimension of positions, at random, that hold about `limit` positions a sample.

        int64, ascending; None for all of them. Only windows of several dimensions are thinned out: neighbours say
        nearly the same there, while tokens are as good as samples.
        """
        if self.positions < 2 or self.position_count <= limit:
            return None
        first = self.view.shape[2]
        count = max(limit * first // self.position_count, 1)
        return torch.randperm(first, generator=generator)[:count].sort().values

    def at(self, places: Tensor | None) -> Features:
        """The features of these places only; all for None."""
        if places is None:
            return self
        return Features(self.view.index_select(2, places.to(self.view.device)), self.positions, self.flipped)

    @property
    def samples(self) -> int:
        """B."""
        return self.view.shape[0]

    @property
    def groups(self) -> int:
        """G."""
        return self.view.shape[1]

    @property
    def position_count(self) -> int:
        """P, of one sample."""
        return self.view.shape[2 : 2 + self.positions].numel()

    @property
    def inputs(self) -> int:
        """N."""
        return self.view.shape[2 + self.positions :].numel()

    def pieces(
        self, memory: int, multiple: int = 1, *, by_sample: bool = False
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """(samples, positions, x float32 (b, G, p, N)) that cover all, of at most `memory` bytes where possible.

        Positions are numbered in row-major order. Pieces hold a multiple of `multiple` samples, and at least one
        step of the first dimension of positions. by_sample: x lies in memory one sample after the other, for products
        of one sample at a time, instead of with the positions of all samples together.
        """
        if self.view.numel() == 0:
            return
        first = self.view.shape[2]
        inner = self.position_count // first
        step_bytes = 4 * self.groups * self.inputs * inner
        steps = min(max(memory // (step_bytes * multiple), 1), first)
        at_once = multiple * max(memory // (step_bytes * multiple * first), 1)
        for b in range(0, self.samples, at_once):
            rows = slice(b, min(b + at_once, self.samples))
            for p in range(0, first, steps):
                end = min(p + steps, first)
                yield rows, slice(p * inner, end * inner), self._piece(rows, slice(p, end), by_sample)

    def _piece(self, rows: slice, first: slice, by_sample: bool) -> Tensor:
        """x float32 (b, G, p, N) of some samples and of a part of the first dimension of positions."""
        part = self.view[rows, :, first]
        if self.flipped:
            part = part.flip(self.flipped)
        samples, groups, positions = part.shape[0], self.groups, part.shape[2 : 2 + self.positions].numel()
        if self.view.dim() == 3 + self.positions:
            return part.to(torch.float32).reshape(samples, groups, positions, self.inputs)
        # Windows: positions last in memory, where the layer's input has long runs of neighbours.
        window = range(2 + self.positions, part.dim())
        places = range(2, 2 + self.positions)
        if by_sample:
            columns = part.permute(0, 1, *window, *places).to(torch.float32)
            return columns.reshape(samples, groups, self.inputs, positions).transpose(2, 3)
        columns = part.permute(1, *window, 0, *places).to(torch.float32)
        return columns.reshape(groups, self.inputs, samples, positions).permute(2, 0, 3, 1)


def dense_features(x: Tensor) -> Features:
    """Features of a matrix product: x (B, ..., N), all dimensions between are positions."""
    if x.dim() == 1:
        x = x[None]
    return Features(x.reshape(x.shape[0], 1, -1, x.shape[-1]), 1)


def conv_features(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Features:
    """Windows of an input that is padded already: x (B, C, *D) -> positions (D - d (k - 1) - 1) // s + 1.

    The inputs of a row are ordered as in the weight: channel of the group, then kernel position.
    """
    n = len(kernel)
    windows = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    for i in range(n):
        windows = windows.unfold(3 + i, dilation[i] * (kernel[i] - 1) + 1, stride[i])[..., :: dilation[i]]
    # (B, G, C/G, *positions, *kernel) -> (B, G, *positions, C/G, *kernel)
    order = [0, 1, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n)]
    return Features(windows.permute(order), n)


def transposed_conv_features(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output: Sequence[int],
) -> Features:
    """What a transposed convolution multiplies at each of its `output` positions: x (B, C, *D).

    y[p] = sum_k W[k] u[p + padding - d k], where u is x with s - 1 zeros between neighbours: windows of the padded
    u, each read backwards.
    """
    n = len(kernel)
    spread = x.new_zeros(*x.shape[:2], *((x.shape[2 + i] - 1) * stride[i] + 1 for i in range(n)))
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    pads: list[int] = []
    for i in reversed(range(n)):
        left = dilation[i] * (kernel[i] - 1) - padding[i]
        needed = output[i] + dilation[i] * (kernel[i] - 1)
        pads += [left, needed - left - spread.shape[2 + i]]
    features = conv_features(F.pad(spread, pads), kernel, [1] * n, dilation, groups)
    return Features(features.view, n, tuple(range(3 + n, 3 + 2 * n)))
