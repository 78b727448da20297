"""What calibration knows about the inputs and outputs of one weight.

Legend: B samples, P positions of a sample (pixels, tokens), G groups, R rows (outputs) of a group, N inputs of a
row, x an input vector (N,), d = dL/dy the gradient of the loss at an output.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from tersor.calibration.layout import Layout
from tersor.errors import MismatchError


@dataclass(frozen=True)
class LayerStatistics:
    """Sums over samples, so that those of several processes add up (`merge`).

    H is kept in float32: a sum of n pieces errs by at most n * 6e-8 of its diagonal, and typically by the root of
    that, far below the damping (1 % of the diagonal) without which no H from samples can be inverted; float64
    would double the memory, which is the square of a layer's width. Everything that grows slowly is float64.

    shape:     of the weight.
    layout:    how the weight is (G, R, N).
    samples:   B, those that reached the layer.
    count:     int64 (G,), number of input vectors x.
    moment:    float32 (G, N, N), H = sum of x x^T over samples and positions; (G, N), its diagonal, where
               `layout.diagonal`.
    input_sum: float64 (G, N), sum of x.
    gradient:  float64 (G, R), sum over samples of |sum_p d_rp x_p|^2, the squared length of each row of the
               gradient of one sample's loss; None if gradients were not asked for.
    """

    shape: Size
    layout: Layout
    samples: int
    count: Tensor
    moment: Tensor
    input_sum: Tensor
    gradient: Tensor | None

    def __post_init__(self) -> None:
        groups, rows, inputs = self.layout.shape(self.shape)
        expected = [
            ("count", self.count, torch.int64, (groups,)),
            ("moment", self.moment, torch.float32, self.layout.moment_shape(self.shape)),
            ("input_sum", self.input_sum, torch.float64, (groups, inputs)),
        ]
        if self.gradient is not None:
            expected.append(("gradient", self.gradient, torch.float64, (groups, rows)))
        for name, value, dtype, shape in expected:
            if value.dtype != dtype or tuple(value.shape) != shape:
                raise MismatchError(
                    f"{name} must be {dtype} of shape {shape} for a weight of shape {tuple(self.shape)}, "
                    f"got {value.dtype} of shape {tuple(value.shape)}"
                )

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """The statistics of both sets of samples. MismatchError if they are of different layers."""
        same = (self.shape, self.layout, self.gradient is None) == (other.shape, other.layout, other.gradient is None)
        if not same:
            raise MismatchError(
                f"statistics of different layers: weights of shape {tuple(self.shape)} and {tuple(other.shape)}, "
                f"{self.layout} and {other.layout}, gradients {self.gradient is not None} and "
                f"{other.gradient is not None}"
            )
        both = self.gradient is not None and other.gradient is not None
        return LayerStatistics(
            self.shape,
            self.layout,
            self.samples + other.samples,
            self.count + other.count,
            self.moment + other.moment,
            self.input_sum + other.input_sum,
            self.gradient + other.gradient if both else None,  # type: ignore[operator]
        )

    def mean_input(self) -> Tensor:
        """float64 (G, N): E[x] over samples and positions; zero where nothing was seen."""
        return self.input_sum / self.count.clamp(min=1)[:, None]

    def diagonal(self) -> Tensor:
        """float64 (G, N): the diagonal of H."""
        return (self.moment if self.layout.diagonal else self.moment.diagonal(dim1=1, dim2=2)).double()

    def row_weights(self) -> Tensor:
        """float64 (G, R): G_r = E|g_r|^2 / tr E[sum_p x x^T], g_r row r of a sample's gradient.

        The Fisher matrix of a row, F_r = E[g_r g_r^T], is taken as G_r E[sum_p x x^T], the multiple of H that has its
        trace (Martens and Grosse 2015, K-FAC, section 3, one row at a time). Then a change e of the row costs about
        G_r e^T (H / B) e / 2 nats. One where gradients were not collected; 0 where the layer's inputs were zero.
        """
        groups, rows, _ = self.layout.shape(self.shape)
        if self.gradient is None:
            return torch.ones(groups, rows, dtype=torch.float64)
        trace = self.diagonal().sum(1)[:, None]
        return torch.where(trace > 0, self.gradient / trace, torch.zeros_like(self.gradient))

    def in_rows(self) -> LayerStatistics:
        """The same, of rows that can have steps of their own: `by_rows` of an embedding, itself of other layers."""
        return self.by_rows() if self.layout.diagonal and self.layout.transposed else self

    def by_rows(self) -> LayerStatistics:
        """The same of an embedding (V, D), with its storage rows in place of its outputs as rows.

        As all inputs are one-hot, the loss sum_dv G_d c_v e_vd^2 of errors e, counts c, weighs tokens as well as
        it does outputs: here c_v / B are the rows' weights and G_d is the diagonal of H / B, so that every token may
        have a step, and a path through a trellis. MismatchError for layers of another kind.
        """
        if not (self.layout.diagonal and self.layout.transposed):
            raise MismatchError(f"only an embedding can be seen by its rows, got {self.layout}")
        outputs = self.row_weights() * max(self.samples, 1)
        tokens = self.moment.double() / max(self.samples, 1)
        layout = Layout(diagonal=True)
        moment = outputs.float()
        return LayerStatistics(
            self.shape,
            layout,
            self.samples,
            self.count,
            moment,
            torch.zeros(1, self.shape[1], dtype=torch.float64),
            tokens * moment.double().sum(),
        )


def merge(*parts: Mapping[str, LayerStatistics]) -> dict[str, LayerStatistics]:
    """Statistics of all sets of samples, weight by weight; weights that only some of them have are kept.

    Raises MismatchError, naming the weight, where they are of different layers.
    """
    merged: dict[str, LayerStatistics] = {}
    for name, statistics in itertools.chain.from_iterable(part.items() for part in parts):
        try:
            merged[name] = merged[name].merge(statistics) if name in merged else statistics
        except MismatchError as error:
            raise MismatchError(f"{name}: {error}") from error
    return merged
