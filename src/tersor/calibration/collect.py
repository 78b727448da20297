"""One pass over samples: second moments of every layer's inputs and, if asked for, gradients at its outputs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tersor.calibration.accumulate import Accumulator
from tersor.calibration.guard import untouched
from tersor.calibration.hooks import observed
from tersor.calibration.objectives import Objective, default_objective
from tersor.calibration.observer import Use
from tersor.calibration.samples import batches, call
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import Target, find_targets
from tersor.calibration.thinning import Thinning
from tersor.errors import CalibrationError, TersorWarning, UsageError, shortlist

MEMORY = 1 << 26
"""Bytes of unfolded inputs at a time."""

POSITIONS = 128
"""Windows of a sample that H of a convolution is taken from."""


def collect(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    fisher: bool | Objective = False,
    seed: int = 0,
    memory: int = MEMORY,
    positions: int = POSITIONS,
    layers: Collection[str] | None = None,
    unreached: str = "warn",
) -> dict[str, LayerStatistics]:
    """Statistics by the name of the weight, of Linear, convolutions (transposed, too), Embedding, attention and RNNs.

    model:     in evaluation mode during the pass, and handed back as it came. On any device, of any float dtype.
    samples:   batches, one after the other: tensors (`model(batch)`), tuples (`model(*batch)`) or mappings
               (`model(**batch)`), on the model's device, samples in the first dimension. A tensor or mapping itself
               is one batch.
    fisher:    also gather the squared gradients of each output channel's weights (`LayerStatistics.row_weights`), one
               backward pass a batch. True projects the output at random, by the Fisher matrix of the model's own
               predictions where it looks like logits (`objectives`); or a function (output, generator) -> scalar
               loss, summed over samples. Samples must not influence each other, as in evaluation mode they do not.
    seed:      of those draws, and of whatever the model and the iterator of samples draw.
    memory:    bytes of unfolded inputs at a time; H and one batch's activations in the backward pass come on top.
    positions: windows of a sample, about, that H of a convolution is taken from, in rows of the picture drawn anew for
               each batch; H is scaled to what all windows would give.
    layers:    names of weights or modules; None for all.
    unreached: "warn", "error" or "ignore" when no sample reached a layer; such layers have no entry in the result.

    Modules that are used several times add their uses up. Results are the same in every run, up to the order in which
    the installed BLAS sums.

    Raises UsageError for bad arguments or no samples; CalibrationError where the model rejects a sample, a layer's
    inputs or gradients are NaN or Inf, or (`unreached="error"`) a layer was not reached.
    """
    if unreached not in ("warn", "error", "ignore"):
        raise UsageError(f"unreached must be warn, error or ignore, got {unreached!r}")
    if positions < 1:
        raise UsageError(f"positions must be a positive number, got {positions!r}")
    if memory < 1:
        raise UsageError(f"memory must be a positive number of bytes, got {memory!r}")
    targets = find_targets(model, layers)
    observe = _Collector(targets, bool(fisher), memory, Thinning(positions, seed))
    objective = default_objective if isinstance(fisher, bool) else fisher
    generator = torch.Generator().manual_seed(seed)
    with untouched(model, seed), observed(targets, observe), closing(observe):
        for index, batch, size in batches(samples):
            observe.start(size)
            with torch.set_grad_enabled(bool(fisher)):
                output = call(model, batch, index)
                if fisher:
                    observe.backward(objective(output, generator))
            observe.end()
    return observe.results(unreached)


def tell_unreached(missing: Sequence[str], unreached: str) -> None:
    """What `collect` says of layers that no sample reached; nothing if there are none."""
    if not missing or unreached == "ignore":
        return
    text = f"no sample reached {shortlist(missing)}; give samples that use them, or leave them out (keep= of Calibrate)"
    if unreached == "error":
        raise CalibrationError(text)
    warnings.warn(text, TersorWarning, stacklevel=4)


class _Collector:
    """Adds every use to its weight's sums."""

    def __init__(self, targets: list[Target], gradients: bool, memory: int, thinning: Thinning) -> None:
        self.batch = 0
        self.gradients = gradients
        self._thinning = thinning
        self._memory = memory
        self._sums: dict[str, Accumulator] = {}
        self._reached: set[str] = set()
        self._roots: list[Tensor] = []
        self._handles: list[RemovableHandle] = []
        self._expected = [target.names[local] for target in targets for local in target.layouts]

    def start(self, size: int) -> None:
        """A batch of `size` samples begins."""
        self.batch = size
        self._reached.clear()

    def end(self) -> None:
        """The batch is over."""
        for name in self._reached:
            self._sums[name].samples += self.batch
        self.close()

    def close(self) -> None:
        """Lets go of the batch. A hook holds the output that holds it, a ring that Python's collector does not see."""
        self._roots.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def observe(self, target: Target, use: Use) -> Tensor:
        """Adds a use."""
        sums = self._accumulator(target, use)
        inputs, weight, _ = self._thinning.thin(use.inputs)
        sums.add(inputs, use.first, weight)
        self._reached.add(sums.name)
        return self._watched(use, sums) if self.gradients else use.output

    def backward(self, loss: Tensor) -> None:
        """Runs the gradients back through the hooks that `observe` placed."""
        if not bool(torch.isfinite(loss)):
            raise CalibrationError(
                f"the loss of its own predictions is {float(loss)}: the model's output is not finite"
            )
        if not self._roots:
            return
        if not loss.requires_grad:
            raise CalibrationError("the loss has no gradient: it does not depend on any layer, or under no_grad only")
        torch.autograd.grad(loss, self._roots, allow_unused=True)

    def results(self, unreached: str) -> dict[str, LayerStatistics]:
        """The statistics, in the order of the model's weights."""
        names = list(dict.fromkeys(self._expected))
        tell_unreached([name for name in names if name not in self._sums], unreached)
        return {name: self._sums[name].result() for name in names if name in self._sums}

    def _accumulator(self, target: Target, use: Use) -> Accumulator:
        name = target.names[use.weight]
        if name not in self._sums:
            weight = target.weight(use.weight)
            self._sums[name] = Accumulator(
                name, weight.shape, target.layouts[use.weight], weight.device, self.gradients, self._memory
            )
        return self._sums[name]

    def _watched(self, use: Use, sums: Accumulator) -> Tensor:
        """The output, in the graph (from here on, if nothing before it was) and with a hook on its gradient."""
        output = use.output
        if not output.requires_grad:
            root = output.detach().requires_grad_()
            self._roots.append(root)
            output = root.clone()  # the network may overwrite it, which autograd forbids for a root
            if not output.requires_grad:
                raise CalibrationError(f"{sums.name}: its module runs under torch.no_grad, so that it has no gradients")
        batch, version = self.batch, use.inputs.version

        def add(gradient: Tensor) -> None:
            if use.inputs.version != version:
                raise CalibrationError(
                    f"{sums.name}: the model overwrites this layer's input after its use, so that no gradients of its "
                    "weight exist; make that operation not in-place, or leave the layer out"
                )
            sums.add_gradient(use.inputs, use.arranged(gradient), batch, use.first)

        self._handles.append(output.register_hook(add))
        return output
