"""Which layers become integers, and what their classes do beside the product: seen, not guessed.

A subclass of a convolution may pad its input by itself. One call with the product watched tells how; a second one,
with a larger input, whether that is always so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tersor.calibration.products import CONVOLUTIONS
from tersor.integers.arithmetic import Window

_PRODUCTS = (torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d)
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Form:
    """A layer that can be a product of integers. window: how a convolution's kernel moves; None for a linear layer."""

    window: Window | None


def form_of(module: nn.Module, x: Tensor) -> Form | str:
    """The form of a Linear or a convolution, from an input `x` that it was given; or why it has none."""
    if isinstance(module, nn.Linear):
        return Form(None) if _computes(module, x, None) else "its class computes more than a product"
    assert isinstance(module, CONVOLUTIONS)
    if module.padding_mode != "zeros":
        return f"its padding is {module.padding_mode!r}, not zeros"
    spatial = len(module.kernel_size)
    x = x if x.dim() == spatial + 2 else x[None]
    window = _declared(module) if type(module) in _PLAIN else _watched(module, x)
    if window is None:
        return "its class computes more than a product"
    larger = F.pad(x, [0, 1] * spatial)
    if type(module) not in _PLAIN and _watched(module, larger) != window:
        return "its class pads inputs of another size differently"
    return Form(window) if _computes(module, x, window) else "its class computes more than a product"


def dynamic_form(module: nn.Module) -> Form | str:
    """The same without an input: only classes of torch itself are known to be nothing but a product."""
    if type(module) not in _PLAIN:
        return "its class is not torch's own; give calibration samples, which show what it does"
    if isinstance(module, nn.Linear):
        return Form(None)
    assert isinstance(module, CONVOLUTIONS)
    zeros = module.padding_mode == "zeros"
    return Form(_declared(module)) if zeros else f"its padding is {module.padding_mode!r}, not zeros"


def _declared(module: nn.Module) -> Window:
    """Of torch's own classes."""
    assert isinstance(module, CONVOLUTIONS)
    spatial = range(len(module.kernel_size))
    totals = [module.dilation[i] * (module.kernel_size[i] - 1) for i in spatial]
    if module.padding == "same":
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(0, 0) if isinstance(module.padding, str) else (int(module.padding[i]),) * 2 for i in spatial]
    before, after = (tuple(side[end] for side in sides) for end in (0, 1))
    return Window(before, after, tuple(module.stride), tuple(module.dilation), module.groups)


class _Watch(TorchFunctionMode):
    """Notes the arguments of the convolutions that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Mapping[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            self.calls.append({**dict(zip(names, args, strict=False)), **kwargs})
        return func(*args, **kwargs)


def _watched(module: nn.Module, x: Tensor) -> Window | None:
    """What the one convolution that `module` calls does with `x`, padded by its class or not."""
    assert isinstance(module, CONVOLUTIONS)
    watch = _Watch()
    with torch.no_grad(), watch:
        module.forward(x)
    if len(watch.calls) != 1:
        return None
    call = watch.calls[0]
    spatial = len(module.kernel_size)
    if isinstance(call.get("padding"), str):
        return None
    stride, dilation = (_numbers(call.get(key, 1), spatial) for key in ("stride", "dilation"))
    sides = _numbers(call.get("padding", 0), spatial)
    around = _zeros_around(x, call["input"], spatial)
    if around is None:
        return None
    before = tuple(a + b for a, b in zip(around[0], sides, strict=True))
    after = tuple(a + b for a, b in zip(around[1], sides, strict=True))
    return Window(before, after, stride, dilation, int(call.get("groups", 1)))


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(int(v) for v in value) * (count // len(value))


def _zeros_around(x: Tensor, padded: Tensor, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """How many zeros were put before and after `x` in each dimension; None if something else happened to it."""
    totals = [padded.shape[2 + i] - x.shape[2 + i] for i in range(spatial)] if padded.dim() == x.dim() else [-1]
    if min(totals) < 0 or padded.shape[:2] != x.shape[:2]:
        return None
    for before in torch.cartesian_prod(*(torch.arange(t + 1) for t in totals)).reshape(-1, spatial).tolist():
        after = [total - b for total, b in zip(totals, before, strict=True)]
        sides = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
        if torch.equal(F.pad(x, sides), padded):
            return tuple(before), tuple(after)
    return None


def _computes(module: Any, x: Tensor, window: Window | None) -> bool:
    """Whether the layer's output is that of the product alone, up to rounding."""
    if type(module) in _PLAIN:
        return True
    with torch.no_grad():
        expected = module.forward(x)
        if window is None:
            y = F.linear(x, module.weight, module.bias)
        else:
            sides = [s for pair in reversed(list(zip(window.before, window.after, strict=True))) for s in pair]
            convolve = (F.conv1d, F.conv2d, F.conv3d)[len(window.stride) - 1]
            moved = window.stride, 0, window.dilation, window.groups
            y = convolve(F.pad(x, sides), module.weight, module.bias, *moved)
    if not isinstance(expected, Tensor) or expected.shape != y.shape:
        return False
    return bool(torch.allclose(expected, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()) if y.numel() else 0.0))
