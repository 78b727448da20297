"""How a layer's weight is a stack of matrices that multiply its inputs: one output channel a row.

Storage rows (`layers.Geometry`) are output channels for most layers, but not for transposed convolutions and
embeddings, and grouped convolutions see different inputs in each group.

Legend: O outputs, I inputs, K kernel positions, G groups, R = O / G rows of a group, N inputs of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Size, Tensor


@dataclass(frozen=True)
class Layout:
    """Which dimension of a weight holds the outputs.

    transposed: False for (O, I/G, *kernel): Linear, convolutions, attention and recurrent projections.
                True for (I, O/G, *kernel): transposed convolutions, Hugging Face's Conv1D, and embeddings, whose
                inputs are one-hot vectors.
    groups:     G.
    diagonal:   the inputs of a row are never non-zero together, so that H is diagonal (embeddings).
    """

    transposed: bool = False
    groups: int = 1
    diagonal: bool = False

    def shape(self, weight: Size) -> tuple[int, int, int]:
        """(G, R, N) of a weight of shape `weight`; it has at least two dimensions."""
        kernel = weight[2:].numel()
        if self.transposed:
            return self.groups, weight[1], weight[0] // self.groups * kernel
        return self.groups, weight[0] // self.groups, weight[1] * kernel

    def matrices(self, weight: Tensor) -> Tensor:
        """`weight` as (G, R, N); shares its memory where it can."""
        shape = self.shape(weight.shape)
        if not self.transposed:
            return weight.reshape(shape)
        split = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        return split.transpose(1, 2).reshape(shape)

    def weight(self, matrices: Tensor, shape: Size) -> Tensor:
        """The inverse of `matrices`: a contiguous tensor of shape `shape`."""
        if not self.transposed:
            return matrices.reshape(shape)
        split = matrices.reshape(self.groups, shape[1], shape[0] // self.groups, shape[2:].numel())
        return split.transpose(1, 2).reshape(shape)

    def moment_shape(self, weight: Size) -> tuple[int, ...]:
        """Shape of H: (G, N, N), or (G, N) where it is diagonal."""
        groups, _, inputs = self.shape(weight)
        return (groups, inputs) if self.diagonal else (groups, inputs, inputs)
