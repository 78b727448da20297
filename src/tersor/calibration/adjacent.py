"""Which batch norms take in exactly what a convolution or a linear layer gave out, seen in one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.batchnorm import BATCH_NORMS
from tersor.calibration.guard import untouched
from tersor.calibration.products import CONVOLUTIONS, TRANSPOSED, layout
from tersor.calibration.samples import call

NORMS = (*BATCH_NORMS, nn.SyncBatchNorm)


@dataclass
class _Output:
    """What a layer gave out, held so that its memory is not used again; `version` counts changes in place."""

    layer: str
    value: Tensor
    version: int

    def is_what(self, x: Tensor) -> bool:
        """Whether x is these numbers, seen the same way, and unchanged."""
        same = x is self.value or (x.data_ptr() == self.value.data_ptr() and x.stride() == self.value.stride())
        return same and x.shape == self.value.shape and x.dtype == self.value.dtype and x._version == self.version


def adjacent(model: nn.Module, batch: Any, seed: int = 0) -> dict[str, str]:
    """Name of a batch norm -> name of the layer whose output it takes in, where both ran once and share nothing.

    Whether somebody else uses that output, too, is not known: only the outputs of the network can tell.
    Raises CalibrationError if the model rejects the batch.
    """
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    counts: Counter[str] = Counter()
    outputs: list[_Output] = []
    sources: dict[str, str] = {}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        name = names[id(module)]
        counts[name] += 1
        if isinstance(output, Tensor) and output.dim() == _batched_dimensions(module):
            outputs.append(_Output(name, output, output._version))

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        name = names[id(module)]
        counts[name] += 1
        x = args[0] if args else None
        # The latest first: a layer may write over what another one gave out.
        found = next((o.layer for o in reversed(outputs) if isinstance(x, Tensor) and o.is_what(x)), None)
        if found is not None:
            sources[name] = found

    with torch.no_grad(), untouched(model, seed), ExitStack() as stack:
        for module in modules.values():
            if _is_product(module):
                stack.callback(module.register_forward_hook(after).remove)
            elif isinstance(module, NORMS):
                stack.callback(module.register_forward_pre_hook(before).remove)
        call(model, batch, 0)
    uses = Counter(sources.values())
    shared = _shared(modules)
    return {
        norm: layer
        for norm, layer in sources.items()
        if counts[norm] == counts[layer] == uses[layer] == 1 and norm not in shared and layer not in shared
    }


def _is_product(module: nn.Module) -> bool:
    """A layer with a weight of its own, no function of other tensors, that has output channels."""
    return layout(module) is not None and not isinstance(module, nn.Embedding) and "weight" in module._parameters


def _batched_dimensions(module: nn.Module) -> int:
    """How many dimensions an output has whose channels are dimension 1, as batch norms take them."""
    return len(module.kernel_size) + 2 if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) else 2


def _shared(modules: Mapping[str, nn.Module]) -> set[str]:
    """Modules with a tensor that belongs to another module, too."""
    owners: dict[tuple[int, int], set[str]] = {}
    for name, module in modules.items():
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.numel():
                owners.setdefault((tensor.data_ptr(), tensor.numel()), set()).add(name)
    return {name for group in owners.values() if len(group) > 1 for name in group}
