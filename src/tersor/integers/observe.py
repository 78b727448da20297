"""What the layers of a float network take in, from one pass over samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.samples import batches, call
from tersor.errors import CalibrationError
from tersor.integers.forms import Form, form_of
from tersor.simulation.observers import Observe, Observer


@dataclass
class Inputs:
    """Of one layer. form: of the layer, or why it has none. observer: of all values. total: float64 (I,), the sum of
    each channel's values, of which there were `count`."""

    form: Form | str
    observer: Observer
    total: Tensor
    count: int = 0

    def means(self) -> Tensor:
        """E[x] of each input channel, float64 (I,)."""
        return self.total / max(self.count, 1)


def observe_inputs(
    model: nn.Module, layers: Collection[str], samples: Iterable[Any], options: Observe, seed: int = 0
) -> dict[str, Inputs]:
    """By the name of each layer (Linear, convolutions) that a sample reached.

    The model is handed back as it came. Errors as `samples.batches` and `samples.call`; CalibrationError, naming the
    layer, for NaN or Inf in what it takes in.
    """
    found: dict[str, Inputs] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            found[name] = Inputs(f"it takes {kind}, not float32", options.observer(), torch.zeros(0))
            return
        if name not in found:
            found[name] = Inputs(form_of(module, x), options.observer(), torch.zeros(0, dtype=torch.float64))
        own = found[name]
        if isinstance(own.form, str):
            return
        try:
            own.observer(x)
        except CalibrationError as error:
            raise CalibrationError(f"{name}: {error}") from error
        spatial = 0 if own.form.window is None else len(own.form.window.stride)
        channel = x.dim() - 1 - spatial
        others = [dim for dim in range(x.dim()) if dim != channel]
        own.total = (x.sum(others, dtype=torch.float64) if others else x.double()) + (own.total if own.count else 0)
        own.count += x.numel() // max(x.shape[channel], 1)

    with torch.no_grad(), untouched(model, seed), ExitStack() as stack:
        for name, module in model.named_modules():
            if name in layers:

                def hook(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                    note(m, args, kwargs, name)

                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for index, batch, _ in batches(samples):
            call(model, batch, index)
    return found
