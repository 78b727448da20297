"""Sequential calibration: what a layer sees behind a quantized prefix, against what it saw in the float network.

Legend: G groups, R rows of a group, N inputs of a row, x the float network's input vector, u the quantized one's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.calibration.accumulate import Accumulator, Tokens, add_moment
from tersor.calibration.features import Features
from tersor.calibration.feedback import as_matrices
from tersor.calibration.observer import Use
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import Target
from tersor.errors import CalibrationError, MismatchError

TARGET_DAMPING = 0.03
"""How strongly a target holds on to the weight, as a part of the mean of H's diagonal, where nothing else is known."""

_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class PairStatistics:
    """Sums over samples and positions of a layer's inputs in two networks.

    quantized: statistics of u.
    cross:     float32 (G, N, N), C = sum of x u^T; (G, N) where the layout is diagonal.
    input_sum: float64 (G, N), sum of x.
    """

    quantized: LayerStatistics
    cross: Tensor
    input_sum: Tensor

    def merge(self, other: PairStatistics) -> PairStatistics:
        """The statistics of both sets of samples. MismatchError if they are of different layers."""
        return PairStatistics(
            self.quantized.merge(other.quantized), self.cross + other.cross, self.input_sum + other.input_sum
        )

    def target(self, weight: Tensor, damping: float = TARGET_DAMPING) -> Tensor:
        """W* that minimises E|W x - W* u|^2 + a |W - W*|^2: what to quantize instead of W, float64 (G, R, N).

        W* = W (C + a I) (H + a I)^-1 with H = sum of u u^T and a = `damping` times the mean of its diagonal. It is W
        itself in directions that u does not reach, and where x = u.
        """
        w = as_matrices(weight, self.quantized)
        return w + self._moves(w, damping)

    def gain(self, weight: Tensor, move: Tensor, rows: Tensor) -> float:
        """By how much sum_r G_r E|W x - W' u|^2 falls if W' is W + `move` instead of W; both float64 (G, R, N).

        rows: G_r, (G, R).
        """
        h, away = self._excess()
        changed = (move @ h * move).sum(2) - 2 * (weight @ away * move).sum(2)
        return -float((rows * changed).sum()) / max(self.quantized.samples, 1)

    def _excess(self) -> tuple[Tensor, Tensor]:
        """H and C - H = sum of (x - u) u^T, float64 (G, N, N)."""
        h = self.quantized.moment.double()
        return h, self.cross.double() - h

    def _moves(self, w: Tensor, damping: float) -> Tensor:
        """W* - W = W (C - H) (H + a I)^-1."""
        if self.quantized.layout.diagonal or damping == float("inf"):
            return torch.zeros_like(w)
        h, away = self._excess()
        mean = h.diagonal(dim1=1, dim2=2).mean(1)
        # Where nothing was seen, H is zero, and so is C - H.
        ridge = torch.where(mean > 0, mean * damping, torch.ones_like(mean))
        damped = h + ridge[:, None, None] * torch.eye(h.shape[1], dtype=h.dtype)
        # H is symmetric, so that the result is the transpose of a solution of (H + a I) X = (C - H)^T W^T.
        return torch.linalg.solve(damped, (w @ away).transpose(1, 2)).transpose(1, 2)

    def output_shift(self, weight: Tensor, quantized: Tensor) -> Tensor:
        """E[W x] - E[Wq u], float64 (O,): what to add to the bias so that the mean output is the float network's.

        Both weights have the layer's shape, or are (G, R, N).
        """
        w, q = as_matrices(weight, self.quantized), as_matrices(quantized, self.quantized)
        mean = self.input_sum / self.quantized.count.clamp(min=1)[:, None]
        return (w @ mean[..., None] - q @ self.quantized.mean_input()[..., None]).reshape(-1)


def cross_validated_damping(weight: Tensor, first: PairStatistics, second: PairStatistics, rows: Tensor) -> float:
    """The damping of `target` whose targets from one half of the samples serve the other half best; infinite for none.

    weight: of the layer's shape. rows: G_r, float64 (G, R).
    """
    w = as_matrices(weight, first.quantized)
    best, found = 0.0, float("inf")
    for damping in _DAMPINGS:
        gain = sum(other.gain(w, known._moves(w, damping), rows) for known, other in ((first, second), (second, first)))
        if gain > best:
            best, found = gain, damping
    return found


@dataclass(frozen=True)
class Before:
    """Inputs of one use in the float network, as `Thinning.thin` gives them."""

    inputs: Features | Tokens
    weight: float
    places: Tensor | None


class PairSums:
    """Adds up the second network's inputs together with those that the first one had at the same use."""

    def __init__(self, memory: int) -> None:
        self.accumulators: dict[str, Accumulator] = {}
        self._expected: dict[str, list[Before]] = {}
        self._memory = memory
        self._cross: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}

    def begin(self, expected: dict[str, list[Before]]) -> None:
        """A batch begins, of which the first network has used weights so: by name, in order."""
        self._expected = expected

    def observe(self, target: Target, use: Use) -> Tensor:
        """Adds a use and its counterpart."""
        name = target.names[use.weight]
        if name not in self.accumulators:
            weight, layout = target.weight(use.weight), target.layouts[use.weight]
            made = Accumulator(name, weight.shape, layout, weight.device, False, self._memory)
            self.accumulators[name] = made
            self._cross[name] = torch.zeros_like(made.moment)
            self._sum[name] = torch.zeros_like(made.input_sum)
        waiting = self._expected.get(name)
        if not waiting:
            raise CalibrationError(f"{name}: the quantized model uses it more often than the float model")
        before, after = waiting.pop(0), use.inputs
        if isinstance(after, Features):
            after = after.at(before.places)
        self.accumulators[name].add(after, use.first, before.weight)
        self._add(name, before, after, use.first)
        return use.output

    def end(self, size: int) -> None:
        """The batch, of `size` samples, is over."""
        left = [name for name, uses in self._expected.items() if uses]
        if left:
            raise CalibrationError(f"{left[0]}: the float model uses it more often than the quantized model")
        for name in self._expected:
            self.accumulators[name].samples += size

    def result(self, name: str) -> PairStatistics:
        """The statistics of a weight."""
        return PairStatistics(self.accumulators[name].result(), self._cross[name].cpu(), self._sum[name].cpu())

    def _add(self, name: str, held: Before, after: Features | Tokens, first: int) -> None:
        before = held.inputs
        if isinstance(before, Tokens) or isinstance(after, Tokens):
            if not (isinstance(before, Tokens) and isinstance(after, Tokens)):
                raise MismatchError(f"{name}: an embedding in one model only")
            width = self._sum[name].shape[1]
            self._sum[name] += torch.bincount(before.indices.reshape(-1), minlength=width)
            same = before.indices[before.indices == after.indices]
            self._cross[name] += torch.bincount(same.reshape(-1), minlength=width)
            return
        if before.view.shape != after.view.shape:
            raise CalibrationError(
                f"{name}: its inputs have shape {tuple(before.view.shape)} in the float model, but "
                f"{tuple(after.view.shape)} in the quantized one"
            )
        groups = slice(first, first + after.groups)
        pieces = zip(before.pieces(self._memory), after.pieces(self._memory), strict=True)
        for (_, _, x), (_, _, u) in pieces:
            add_moment(self._cross[name][groups], x, u, held.weight)
            self._sum[name][groups] += x.sum((0, 2))
