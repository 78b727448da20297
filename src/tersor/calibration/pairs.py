"""Sequential calibration: what a layer sees behind a quantized prefix, against what it saw in the float network.

Legend: G groups, R rows of a group, N inputs of a row, x the float network's input vector, u the quantized one's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.accumulate import Accumulator, Tokens, add_moment
from tersor.calibration.collect import MEMORY, POSITIONS
from tersor.calibration.features import Features
from tersor.calibration.feedback import as_matrices
from tersor.calibration.guard import untouched
from tersor.calibration.hooks import observed
from tersor.calibration.observer import Use
from tersor.calibration.order import Enough
from tersor.calibration.samples import batches, call
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import Target, find_targets
from tersor.calibration.thinning import Thinning
from tersor.errors import CalibrationError, MismatchError


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

    def target(self, weight: Tensor, damping: float = 0.03) -> Tensor:
        """W* that minimises E|W x - W* u|^2 + a |W - W*|^2: what to quantize instead of W, float64 (G, R, N).

        W* = W (C + a I) (H + a I)^-1 with H = sum of u u^T and a = `damping` times the mean of its diagonal. It is W
        itself in directions that u does not reach, and where x = u.
        """
        w = as_matrices(weight, self.quantized)
        if self.quantized.layout.diagonal:
            return w
        h, c = self.quantized.moment.double(), self.cross.double()
        result = w.clone()
        for group in range(h.shape[0]):
            scale = float(h[group].diagonal().mean())
            if scale <= 0:
                continue
            ridge = torch.eye(h.shape[1], dtype=torch.float64) * (scale * damping)
            # H is symmetric, so that W* is the transpose of a solution of (H + a I) X = (C + a I)^T W^T.
            result[group] = torch.linalg.solve(h[group] + ridge, (c[group] + ridge).T @ w[group].T).T
        return result

    def output_shift(self, weight: Tensor, quantized: Tensor) -> Tensor:
        """E[W x] - E[Wq u], float64 (O,): what to add to the bias so that the mean output is the float network's.

        Both weights have the layer's shape, or are (G, R, N).
        """
        w, q = as_matrices(weight, self.quantized), as_matrices(quantized, self.quantized)
        mean = self.input_sum / self.quantized.count.clamp(min=1)[:, None]
        return (w @ mean[..., None] - q @ self.quantized.mean_input()[..., None]).reshape(-1)


def collect_pair(
    model: nn.Module,
    quantized: nn.Module,
    samples: Iterable[Any],
    layers: Collection[str],
    *,
    seed: int = 0,
    memory: int = MEMORY,
    positions: int = POSITIONS,
) -> dict[str, PairStatistics]:
    """Statistics of the inputs of `layers` in `quantized` (whose earlier layers are quantized) and in `model`.

    Both must have the same modules. Of each batch, the float inputs of the chosen layers are held while the second
    network runs: choose the layers of one block at a time. The first batch shows how often they are used; later
    forward passes end with the last of these uses. Other arguments and errors as `collect`; CalibrationError, too, if
    the networks use a layer differently often or with inputs of different shapes.
    """
    floats, others = find_targets(model, layers), find_targets(quantized, layers)
    if [t.names for t in floats] != [t.names for t in others]:
        raise MismatchError("the float and the quantized model do not have the same layers")
    held, sums = _Held(Thinning(positions, seed)), _PairSums(memory)
    for index, (batch, size) in enumerate(batches(samples)):
        held.batch = sums.batch = size
        # The same seed for both: a network that draws numbers draws the same ones.
        with torch.no_grad(), untouched(model, seed + index), observed(floats, held), suppress(Enough):
            call(model, batch, index)
        sums.uses = held.uses = held.count
        sums.expected = held.take()
        with torch.no_grad(), untouched(quantized, seed + index), observed(others, sums), suppress(Enough):
            call(quantized, batch, index)
        sums.end()
    return {name: sums.result(name) for target in others for name in _names(target) if name in sums.accumulators}


def _names(target: Target) -> Iterator[str]:
    yield from (target.names[local] for local in target.layouts)


@dataclass(frozen=True)
class _Before:
    """Inputs of one use in the float network, as `Thinning.thin` gives them."""

    inputs: Features | Tokens
    weight: float
    places: Tensor | None


class _Held:
    """Keeps the inputs of every use of a batch, by name of the weight. uses: how many end a pass; 0 for no end."""

    batch = 0
    gradients = False

    def __init__(self, thinning: Thinning) -> None:
        self.uses = self.count = 0
        self._thinning = thinning
        self._uses: dict[str, list[_Before]] = {}

    def observe(self, target: Target, use: Use) -> Tensor:
        """Keeps a use's inputs."""
        inputs, weight, places = self._thinning.thin(use.inputs)
        if places is None:
            inputs = inputs.copy()  # the network may overwrite what it gave to the layer
        self._uses.setdefault(target.names[use.weight], []).append(_Before(inputs, weight, places))
        self.count += 1
        if self.count == self.uses:
            raise Enough
        return use.output

    def take(self) -> dict[str, list[_Before]]:
        """What was kept, in order; nothing is kept afterwards."""
        uses, self._uses, self.count = self._uses, {}, 0
        return uses


class _PairSums:
    """Adds up the second network's inputs together with those that the first one had at the same use."""

    batch = 0
    gradients = False

    def __init__(self, memory: int) -> None:
        self.uses = self._count = 0
        self.accumulators: dict[str, Accumulator] = {}
        self.expected: dict[str, list[_Before]] = {}
        self._memory = memory
        self._cross: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}

    def observe(self, target: Target, use: Use) -> Tensor:
        """Adds a use and its counterpart."""
        name = target.names[use.weight]
        if name not in self.accumulators:
            weight, layout = target.weight(use.weight), target.layouts[use.weight]
            made = Accumulator(name, weight.shape, layout, weight.device, False, self._memory)
            self.accumulators[name] = made
            self._cross[name] = torch.zeros_like(made.moment)
            self._sum[name] = torch.zeros_like(made.input_sum)
        waiting = self.expected.get(name)
        if not waiting:
            raise CalibrationError(f"{name}: the quantized model uses it more often than the float model")
        before, after = waiting.pop(0), use.inputs
        if isinstance(after, Features):
            after = after.at(before.places)
        self.accumulators[name].add(after, use.first, before.weight)
        self._add(name, before, after, use.first)
        self._count += 1
        if self._count == self.uses:
            raise Enough
        return use.output

    def end(self) -> None:
        """The batch is over."""
        left = [name for name, uses in self.expected.items() if uses]
        if left:
            raise CalibrationError(f"{left[0]}: the float model uses it more often than the quantized model")
        self._count = 0
        for name in self.expected:
            self.accumulators[name].samples += self.batch

    def result(self, name: str) -> PairStatistics:
        """The statistics of a weight."""
        return PairStatistics(self.accumulators[name].result(), self._cross[name].cpu(), self._sum[name].cpu())

    def _add(self, name: str, held: _Before, after: Features | Tokens, first: int) -> None:
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
