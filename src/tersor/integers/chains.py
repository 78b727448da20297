"""Codes from layer to layer: which activations a layer may apply itself, and whose outputs only one layer takes in.

One forward pass is watched: a layer's output that is used once, by a ReLU, and that one's once, by the next layer,
can be left in 8 bits. Tensors that anybody else uses, the caller of the network included, stay float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersor.calibration.guard import untouched
from tersor.calibration.samples import call

_Key = tuple[int, int]
"""A tensor at one time: its identity and version."""


@dataclass(frozen=True)
class Chain:
    """What follows a layer. limits: of the activation that it applies itself. following: the layer that alone takes in
    the result, or None."""

    limits: tuple[float, float] | None = None
    following: str | None = None


@dataclass(frozen=True)
class Chains:
    """By the name of the layer. activations: names of modules that layers before them apply altogether."""

    of: Mapping[str, Chain]
    activations: frozenset[str]


def find_chains(model: nn.Module, layers: Collection[str], batch: Any, seed: int = 0) -> Chains:
    """Chains among `layers`, names of Linear and convolutions, as one batch shows them.

    The model is in evaluation mode meanwhile, and handed back as it came. CalibrationError if it rejects the batch.
    """
    log = _Log()
    names = {id(module): name for name, module in model.named_modules()}
    with torch.no_grad(), untouched(model, seed), ExitStack() as stack:
        for module in model.modules():
            if names[id(module)] in layers or activation_limits(module) is not None:
                stack.callback(module.register_forward_pre_hook(log.before).remove)
                stack.callback(module.register_forward_hook(log.after).remove)
        stack.enter_context(log)
        output = call(model, batch, 0)
    log.used(output)
    return _linked(log, {id(m): (name, m) for name, m in model.named_modules()}, set(layers))


def activation_limits(module: nn.Module) -> tuple[float, float] | None:
    """(low, high) of modules that clamp, and do nothing else; None for others."""
    if type(module) is nn.ReLU:
        return 0.0, float("inf")
    if type(module) is nn.ReLU6:
        return 0.0, 6.0
    if type(module) is nn.Hardtanh:
        return float(module.min_val), float(module.max_val)
    return None


@dataclass(frozen=True)
class _Call:
    """One call of a module."""

    module: int
    entered: _Key
    left: _Key


class _Log(TorchDispatchMode):
    """Who uses which tensor. Tensors are held, so that no identity is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[_Key] = Counter()
        self.calls: list[_Call] = []
        self._open: dict[int, list[_Key]] = {}
        self._held: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.used([args, kwargs])
        return func(*args, **(kwargs or {}))

    def used(self, nest: Any) -> None:
        """Counts a use of each tensor within."""
        for tensor in _tensors(nest):
            self.uses[self._key(tensor)] += 1

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is called."""
        key = self._key(args[0]) if args and isinstance(args[0], Tensor) else (0, 0)
        self._open.setdefault(id(module), []).append(key)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module has returned."""
        key = self._key(output) if isinstance(output, Tensor) else (0, 0)
        self.calls.append(_Call(id(module), self._open[id(module)].pop(), key))

    def _key(self, tensor: Tensor) -> _Key:
        self._held.append(tensor)
        return id(tensor), tensor._version


def _linked(log: _Log, modules: Mapping[int, tuple[str, nn.Module]], layers: set[str]) -> Chains:
    """What the log tells."""
    count = Counter(own.module for own in log.calls)
    takers: dict[_Key, list[_Call]] = {}
    for own in log.calls:
        takers.setdefault(own.entered, []).append(own)

    def only_taker(key: _Key) -> _Call | None:
        found = takers.get(key, [])
        return found[0] if len(found) == 1 and log.uses[key] == 1 else None

    starts: dict[str, _Call] = {}
    applied: Counter[int] = Counter()
    limits: dict[str, tuple[int, tuple[float, float]]] = {}
    for own in log.calls:
        name = modules[own.module][0]
        if name not in layers or count[own.module] != 1:
            continue
        starts[name] = own
        taker = only_taker(own.left)
        clamp = None if taker is None else activation_limits(modules[taker.module][1])
        if taker is not None and clamp is not None:
            limits[name] = taker.module, clamp
            applied[taker.module] += 1
            starts[name] = taker
    # An activation that somebody else uses, too, stays where it is.
    whole = {module for module in applied if applied[module] == count[module]}
    chains: dict[str, Chain] = {}
    for name, last in starts.items():
        own_limits = limits.get(name)
        if own_limits is not None and own_limits[0] not in whole:
            continue
        taker = only_taker(last.left)
        following = None
        if taker is not None and modules[taker.module][0] in layers and count[taker.module] == 1:
            following = modules[taker.module][0]
        chains[name] = Chain(None if own_limits is None else own_limits[1], following)
    return Chains(chains, frozenset(modules[module][0] for module in whole))


def _tensors(nest: Any) -> list[Tensor]:
    if isinstance(nest, Tensor):
        return [nest]
    parts = nest.values() if isinstance(nest, Mapping) else nest if isinstance(nest, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
