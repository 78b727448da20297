"""Layers whose forward pass is one product: Linear, convolutions, transposed convolutions, Embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.calibration.accumulate import Tokens
from tersor.calibration.features import Features, conv_features, dense_features, transposed_conv_features
from tersor.calibration.layout import Layout
from tersor.calibration.observer import Observe, Use

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def layout(module: nn.Module) -> Layout | None:
    """Layout of `module.weight`, or None for a module of another kind."""
    if isinstance(module, nn.Linear):
        return Layout()
    if isinstance(module, CONVOLUTIONS):
        return Layout(groups=module.groups)
    if isinstance(module, TRANSPOSED):
        return Layout(transposed=True, groups=module.groups)
    if isinstance(module, nn.Embedding):
        return Layout(transposed=True, diagonal=True)
    if _is_hugging_face_conv1d(module):
        return Layout(transposed=True)
    return None


def replay(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor, observe: Observe
) -> Tensor:
    """Tells `observe` of the module's product; returns the output to go on with."""
    x: Tensor = args[0] if args else next(iter(kwargs.values()))
    inputs: Features | Tokens
    if isinstance(module, nn.Embedding):
        indices = _batch_first(x.detach(), observe.batch)
        inputs = Tokens(indices.reshape(indices.shape[0] if indices.dim() else 1, -1))
        arranged = _rows_last(observe.batch, x.dim())
    elif isinstance(module, CONVOLUTIONS):
        inputs = _convolution(module, x.detach())
        arranged = _channels_first(module.groups, len(module.kernel_size))
    elif isinstance(module, TRANSPOSED):
        inputs = _transposed_convolution(module, x.detach(), output)
        arranged = _channels_first(module.groups, len(module.kernel_size))
    else:
        inputs = dense_features(_batch_first(x.detach(), observe.batch, x.dim() - 1))
        arranged = _rows_last(observe.batch, x.dim() - 1)
    return observe(Use("weight", inputs, output, arranged))


def rows_last(gradient: Tensor) -> Tensor:
    """(B, ..., O) -> (B, 1, O, P)."""
    if gradient.dim() == 1:
        gradient = gradient[None]
    flat = gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])
    return flat.transpose(1, 2)[:, None]


def _rows_last(batch: int, leading: int) -> Callable[[Tensor], Tensor]:
    return lambda gradient: rows_last(_batch_first(gradient, batch, leading))


def _channels_first(groups: int, spatial: int) -> Callable[[Tensor], Tensor]:
    def arranged(gradient: Tensor) -> Tensor:
        if gradient.dim() == spatial + 1:
            gradient = gradient[None]
        return gradient.reshape(gradient.shape[0], groups, gradient.shape[1] // groups, -1)

    return arranged


def _batch_first(values: Tensor, batch: int, leading: int | None = None) -> Tensor:
    """`values` with the samples in dimension 0, where one of the `leading` dimensions is as long as the batch.

    A first dimension that is a multiple of the batch is taken as it is (windows of an image).
    """
    leading = values.dim() if leading is None else leading
    if leading < 1 or not batch or values.shape[0] % batch == 0:
        return values
    for dim in range(1, leading):
        if values.shape[dim] == batch:
            return values.movedim(dim, 0)
    return values


def _convolution(module: nn.Module, x: Tensor) -> Features:
    assert isinstance(module, CONVOLUTIONS)
    spatial = len(module.kernel_size)
    if x.dim() == spatial + 1:
        x = x[None]
    pads: list[int] = []
    for i in reversed(range(spatial)):
        if module.padding == "same":
            total = module.dilation[i] * (module.kernel_size[i] - 1)
            pads += [total // 2, total - total // 2]
        else:
            side = 0 if isinstance(module.padding, str) else int(module.padding[i])
            pads += [side, side]
    if any(pads):
        x = F.pad(x, pads) if module.padding_mode == "zeros" else F.pad(x, pads, mode=module.padding_mode)
    return conv_features(x, module.kernel_size, module.stride, module.dilation, module.groups)


def _transposed_convolution(module: nn.Module, x: Tensor, output: Tensor) -> Features:
    assert isinstance(module, TRANSPOSED)
    spatial = len(module.kernel_size)
    if x.dim() == spatial + 1:
        x = x[None]
    padding = tuple(int(side) for side in module.padding)
    return transposed_conv_features(
        x, module.kernel_size, module.stride, padding, module.dilation, module.groups, output.shape[-spatial:]
    )


def _is_hugging_face_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D: a Linear whose weight is (inputs, outputs). Found by name: no need of the library."""
    kind = type(module)
    weight = getattr(module, "weight", None)
    named = kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"
    return named and isinstance(weight, torch.Tensor) and weight.dim() == 2
