"""Batch norms: the running moments that a quantized network's own activations have, and norms that need none.

Legend: C channels, n values of a channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.calibration.guard import untouched
from tersor.calibration.samples import batches, call

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_STILL = 1e-8
"""Of eps: channels of less variance are constants, of which 1 / sqrt(eps) would make noise."""


@dataclass
class _Moments:
    """Running sums of one module; `total` and `squares` are (C,) float64, taken about `center`."""

    center: Tensor
    total: Tensor
    squares: Tensor
    count: int = 0


def reestimate(model: nn.Module, samples: Iterable[Any], *, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each batch norm -> (running_mean, running_var), both (C,) of the buffers' dtype, over all samples.

    Every batch norm normalises with the moments of the batch, so that later ones see what they would see after
    re-estimation: large batches are better ones. Variances are those of all samples, unbiased as torch keeps them.
    The model is not changed; `samples` and errors as in `collect`. Modules that saw fewer than two values of a channel
    are left out.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }
    sums: dict[str, _Moments] = {}
    with torch.no_grad(), untouched(model, seed), ExitStack() as stack:
        for name, module in norms.items():

            def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor, name: str = name) -> Tensor:
                return _normalised(module, args[0], output, name, sums)

            stack.callback(module.register_forward_hook(hook).remove)
        for index, batch, _ in batches(samples):
            call(model, batch, index)
    return {name: _moments(norms[name], s) for name, s in sums.items() if s.count > 1}


def apply(model: nn.Module, moments: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Writes what `reestimate` found into the batch norms of `model`."""
    with torch.no_grad():
        for name, (mean, variance) in moments.items():
            module = model.get_submodule(name)
            assert isinstance(module, BATCH_NORMS) and module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)


@torch.no_grad()
def factor_and_shift(norm: nn.Module) -> None:
    """Gives a batch norm means of 0 and variances of 1, in place: it computes the same in evaluation mode.

    gamma' = gamma / sqrt(var + eps), beta' = beta - gamma' mu; gamma' = 0 where nothing varies. It counts no batches.
    norm: of `BATCH_NORMS`, with running moments, factors and shifts.
    """
    assert isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt() * (norm.running_var > _STILL * norm.eps)
    norm.bias.sub_(factor * norm.running_mean)
    norm.weight.copy_(factor)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - norm.eps)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.zero_()


def _normalised(module: nn.Module, x: Tensor, output: Tensor, name: str, sums: dict[str, _Moments]) -> Tensor:
    assert isinstance(module, BATCH_NORMS) and module.running_mean is not None
    channels = x.detach().double().transpose(0, 1).flatten(1) if x.dim() > 1 else x.detach().double()[:, None]
    if name not in sums:
        zeros = torch.zeros_like(channels[:, 0])
        sums[name] = _Moments(module.running_mean.double().clone(), zeros, zeros.clone())
    s = sums[name]
    # About the old mean, so that a mean far from zero does not cancel the variance away.
    channels = channels - s.center[:, None]
    s.total += channels.sum(1)
    s.squares += channels.square().sum(1)
    s.count += channels.shape[1]
    if channels.shape[1] < 2:
        return output
    return F.batch_norm(x, None, None, module.weight, module.bias, training=True, eps=module.eps)


def _moments(module: nn.Module, s: _Moments) -> tuple[Tensor, Tensor]:
    assert isinstance(module, BATCH_NORMS) and module.running_mean is not None
    mean = s.total / s.count
    variance = (s.squares - s.count * mean.square()).clamp(min=0) / (s.count - 1)
    dtype = module.running_mean.dtype
    return (mean + s.center).to(dtype), variance.to(dtype)
