"""Sums over the uses of one weight, in pieces of bounded memory.

Legend: B samples, G groups, P positions, R rows of a group, N inputs of a row, x inputs, d output gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Size, Tensor

from tersor.calibration.features import Features
from tersor.calibration.layout import Layout
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import CalibrationError

_BANDED = 256
"""Width from which on H is computed in bands."""


@dataclass(frozen=True)
class Tokens:
    """One-hot inputs, by their index: what an embedding multiplies. indices: int64 (B, P)."""

    indices: Tensor

    @property
    def version(self) -> int:
        """Counts the in-place changes of what is viewed."""
        return self.indices._version

    def copy(self) -> Tokens:
        """The same, in memory of its own."""
        return Tokens(self.indices.clone())


@dataclass
class Accumulator:
    """The statistics of one weight while samples pass. Mutable; `result` gives what it holds.

    gradients: collect the gradients' sums, too.
    memory:    bytes of input vectors at a time.
    """

    name: str
    shape: Size
    layout: Layout
    device: torch.device
    gradients: bool
    memory: int
    samples: int = 0
    count: Tensor = field(init=False)
    moment: Tensor = field(init=False)
    input_sum: Tensor = field(init=False)
    gradient: Tensor = field(init=False)

    def __post_init__(self) -> None:
        groups, rows, inputs = self.layout.shape(self.shape)
        self.count = torch.zeros(groups, dtype=torch.int64)
        self.moment = torch.zeros(self.layout.moment_shape(self.shape), device=self.device)
        self.input_sum = torch.zeros(groups, inputs, dtype=torch.float64, device=self.device)
        self.gradient = torch.zeros(groups, rows, dtype=torch.float64, device=self.device)

    def add(self, inputs: Features | Tokens, first: int = 0, weight: float = 1.0) -> None:
        """Adds input vectors of the groups from `first` on, each as if there were `weight` of it in H.

        CalibrationError if they are not finite.
        """
        if isinstance(inputs, Tokens):
            counts = torch.bincount(inputs.indices.reshape(-1), minlength=self.input_sum.shape[1])
            self.count += inputs.indices.numel()
            self.input_sum += counts
            self.moment += counts
            return
        groups = slice(first, first + inputs.groups)
        self.count[groups] += inputs.samples * inputs.position_count
        for _, _, x in inputs.pieces(self.memory):
            add_upper_moment(self.moment[groups], x, weight)
            self.input_sum[groups] += x.sum((0, 2))
        # NaN and Inf reach the sums, which are shorter than the inputs.
        check_finite(self.input_sum[groups], self.name, "input")

    def add_gradient(self, inputs: Features | Tokens, gradient: Tensor, samples: int, first: int = 0) -> None:
        """Adds the squared row gradients of each sample: gradient (B, G, R, P) for the inputs' vectors.

        samples: of the batch. Where an input has more leading entries than that (windows of an image, say), equal
        runs of them belong to one sample.
        """
        if isinstance(inputs, Tokens):
            self.gradient[0] += table_gradient_norms(inputs.indices, gradient[:, 0])
            return
        run = inputs.samples // samples if samples and inputs.samples % samples == 0 else 1
        groups, rows, width = self.layout.shape(self.shape)
        # The row gradients of the samples of a piece, (b, G, R, N), must fit, too.
        widest = max(self.memory // (4 * groups * rows * width), 1) * run
        target = self.gradient[first : first + inputs.groups]
        for at in range(0, inputs.samples, widest):
            part = Features(inputs.view[at : at + widest], inputs.positions, inputs.flipped)
            target += _summed_norms(part, gradient[at : at + widest], run, self.memory)
        check_finite(target, self.name, "output gradient")

    def result(self) -> LayerStatistics:
        """The statistics so far, on the CPU. CalibrationError if sums left the range of float32."""
        if not bool(torch.isfinite(self.moment).all()):
            raise CalibrationError(
                f"{self.name}: the squares of its inputs leave the range of float32; scale the samples as in training"
            )
        gradient = self.gradient.cpu() if self.gradients else None
        upper = self.moment.cpu()
        moment = upper if self.layout.diagonal else upper.triu() + upper.triu(1).transpose(1, 2)
        return LayerStatistics(
            self.shape, self.layout, self.samples, self.count, moment, self.input_sum.cpu(), gradient
        )


def add_upper_moment(moment: Tensor, x: Tensor, weight: float = 1.0) -> None:
    """What lies on and above the diagonal of moment (G, N, N) += weight sum_bp x x^T; x (b, G, p, N), float32.

    Some of what lies below is written, too: wide moments are computed in four bands of rows, 10/16 of the work.
    """
    width = moment.shape[1]
    band = -(-width // 4) if width >= _BANDED else max(width, 1)
    for begin in range(0, width, band):
        end = min(begin + band, width)
        add_moment(moment[:, begin:end, begin:], x[..., begin:end], x[..., begin:], weight)


def add_moment(moment: Tensor, left: Tensor, right: Tensor, weight: float = 1.0) -> None:
    """moment (G, M, N) += weight sum_bp left right^T; left (b, G, p, M), right (b, G, p, N), float32."""
    groups = moment.shape[0]
    if groups == 1:
        moment[0].addmm_(left.reshape(-1, left.shape[-1]).T, right.reshape(-1, right.shape[-1]), alpha=weight)
        return
    a = left.transpose(0, 1).reshape(groups, -1, left.shape[-1])
    b = right.transpose(0, 1).reshape(groups, -1, right.shape[-1])
    moment.baddbmm_(a.transpose(1, 2), b, alpha=weight)


def check_finite(sums: Tensor, name: str, what: str) -> None:
    """CalibrationError naming the layer unless sums of what it saw are finite."""
    if not bool(torch.isfinite(sums).all()):
        raise CalibrationError(
            f"{name}: its {what} holds NaN, Inf or numbers near the end of float32; look at the samples, and at the "
            "layers before it"
        )


def row_gradient_norms(x: Tensor, gradient: Tensor) -> Tensor:
    """|sum_p d_rp x_p|^2 as float32 (b, G, R); x (b, G, P, N), gradient (b, G, R, P), both float32.

    Through the P x P Gram matrix of x where that is smaller than the R x N gradient itself.
    """
    positions, inputs, rows = x.shape[2], x.shape[3], gradient.shape[2]
    if positions * (inputs + rows) < rows * inputs:
        return (gradient * (gradient @ (x @ x.transpose(2, 3)))).sum(3)
    return (gradient @ x).square().sum(3)


def table_gradient_norms(indices: Tensor, gradient: Tensor) -> Tensor:
    """Squared length of each output channel's gradient of an embedding, summed over samples: float64 (R,).

    indices (B, P), gradient (B, R, P). A token that comes several times sums its gradients first.
    """
    total = torch.zeros(gradient.shape[1], dtype=torch.float64, device=gradient.device)
    for tokens, d in zip(indices, gradient.float(), strict=True):
        unique, place = torch.unique(tokens, return_inverse=True)
        sums = d.new_zeros(d.shape[0], unique.numel()).index_add_(1, place, d)
        total += sums.square().sum(1, dtype=torch.float64)
    return total


def _summed_norms(inputs: Features, gradient: Tensor, run: int, memory: int) -> Tensor:
    """Sum over samples of `row_gradient_norms`, float64 (G, R), where `run` leading entries are one sample."""
    total: Tensor | float = 0.0
    partial: Tensor | None = None
    for entries, positions, x in inputs.pieces(memory, run, by_sample=True):
        d = gradient[entries, :, :, positions].float()
        whole = x.shape[2] == inputs.position_count
        if run > 1:
            x, d = _joined(x, run, 2), _joined(d, run, 3)
        if whole:
            total = total + row_gradient_norms(x, d).sum(0, dtype=torch.float64)
            continue
        partial = d @ x if positions.start == 0 or partial is None else partial + d @ x
        if positions.stop == inputs.position_count:
            total = total + partial.square().sum((0, 3), dtype=torch.float64)
    return total if isinstance(total, Tensor) else gradient.new_zeros(gradient.shape[1:3], dtype=torch.float64)


def _joined(values: Tensor, run: int, dim: int) -> Tensor:
    """(b, G, ...) -> (b / run, G, ...) with the positions of `run` entries one after the other in dimension `dim`."""
    b = values.shape[0]
    split = values.reshape(b // run, run, *values.shape[1:]).movedim(1, dim)
    return split.flatten(dim, dim + 1)
