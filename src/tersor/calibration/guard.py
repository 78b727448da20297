"""A model is handed back as it came: modes, flags, buffers, hooks and random states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.errors import UsageError


def check_seed(seed: object) -> None:
    """UsageError unless torch's generators take it: an integer of 64 bits; bools are none."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 64:
        raise UsageError(f"seed must be an integer of 64 bits, got {seed!r}")


@contextmanager
def untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Within: evaluation mode, parameters without gradients, no fused attention, random numbers from `seed`.

    After, errors included: training flags, requires_grad, buffers (their tensors and values), and the random states
    of the CPU and of the model's GPUs are what they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = _buffers(model)
    gpus = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fused = torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode(False), torch.random.fork_rng(devices=gpus):
        try:
            torch.manual_seed(seed)
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, mode in modes:
                module.training = mode
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            for buffer in buffers:
                buffer.restore()


@dataclass(frozen=True)
class _Buffer:
    module: nn.Module
    name: str
    tensor: Tensor | None
    value: Tensor | None
    version: int

    def restore(self) -> None:
        """Puts tensor and values back; a version counter tells whether somebody wrote to it."""
        self.module._buffers[self.name] = self.tensor
        if self.tensor is not None and self.value is not None and self.tensor._version != self.version:
            with torch.no_grad():
                self.tensor.copy_(self.value)


def _buffers(model: nn.Module) -> list[_Buffer]:
    return [
        _Buffer(module, name, tensor, *((None, 0) if tensor is None else (tensor.clone(), tensor._version)))
        for module in model.modules()
        for name, tensor in module._buffers.items()
    ]
