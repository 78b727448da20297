"""Whole residual blocks: which of them can go, and networks without them.

A block y = x + f(x) whose branch f gives zero hands x on. It can go where that is all that is left of it: not where the
sum is normalised or scaled after, nor where an activation after the sum changes x (one that is negative before a ReLU).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersor.calibration.copying import copied
from tersor.calibration.guard import untouched
from tersor.errors import StructureError, UsageError
from tersor.structure.carried import carry, manifest_of
from tersor.structure.edits import Edits
from tersor.structure.manifest import Manifest, drop
from tersor.structure.outputs import difference, tensors_of


def droppable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the submodules that are residual blocks and can go, in the order of `named_modules`.

    They ran once in `model(*args, **kwargs)`, took a tensor first and returned one of its shape and dtype, and hand it
    on when everything that they add to it is zero. Blocks within blocks are listed beside them, and so is a sequence of
    blocks. The model is not changed. StructureError if it does not run on these inputs.
    """
    with untouched(model, 0), torch.no_grad():
        calls = _calls(model, args, kwargs or {})
        return tuple(name for name, call in calls.items() if _hands_on(model.get_submodule(name), call))


def drop_blocks(
    model: nn.Module,
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    inplace: bool = False,
) -> nn.Module:
    """A copy of `model` (with `inplace` itself) in which the blocks `names` hand their inputs on.

    The result's output on these inputs is, in evaluation mode, that of the network in which the blocks' branches give
    zero. Its manifest knows the blocks, so that `load` can drop them from a fresh instance of the class.
    UsageError for names that `droppable` does not list, or one within another; StructureError if the network does not
    work without them. `model` is unchanged then.
    """
    known = droppable(model, args, kwargs)
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no residual block that can go; these can: {', '.join(known) or 'none'}")
        if any(other != name and name.startswith(f"{other}.") for other in names) or list(names).count(name) > 1:
            raise UsageError(f"{name!r} is named twice, or within another block that goes; name each block once")
    target = model if inplace else copied(model)
    if not names:
        return target
    edits = Edits()
    try:
        with untouched(target, 0), torch.no_grad():
            wanted = _without_branches(target, names, args, kwargs or {})
        for name in names:
            drop(target, name, edits)
        with untouched(target, 0), torch.no_grad():
            found = _ran(target, args, kwargs or {}, f"without {', '.join(names)} ")
        reason = difference(tensors_of(found), tensors_of(wanted))
        if reason is not None:
            raise StructureError(f"without {', '.join(names)} the network is not that of zero branches: {reason}")
        carry(target, manifest_of(model).then(Manifest(tuple(names))), edits)
    except BaseException:
        edits.rollback()
        raise
    return target


@dataclass
class _Call:
    """What a module was called with: tensors in `inputs` are copies, since it may change its own."""

    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    runs: int = 1
    fits: bool = False


def _calls(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, _Call]:
    """The calls of modules with parameters that ran once and keep the shape and dtype of their first argument."""
    calls: dict[str, _Call] = {}
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and next(module.children(), None) is not None and next(module.parameters(), None) is not None:
                hooks.callback(module.register_forward_pre_hook(_before(calls, name), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(_after(calls, name)).remove)
        _ran(model, args, kwargs, "")
    return {name: call for name, call in calls.items() if call.fits and call.runs == 1}


def _before(calls: dict[str, _Call], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in calls:
            calls[name].runs += 1
        elif args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            calls[name] = _Call((args[0].clone(), *args[1:]), kwargs)

    return hook


def _after(calls: dict[str, _Call], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if name in calls and isinstance(output, Tensor):
            first = calls[name].inputs[0]
            calls[name].fits = output.shape == first.shape and output.dtype == first.dtype

    return hook


class _ZeroBranches(TorchDispatchMode):
    """Sums of a tensor that is handed on and another one give the first. `sums` counts them."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.sums = 0
        self._handed = [first]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and kwargs.get("alpha", 1) == 1:
            for position, argument in enumerate(args[:2]):
                other = args[1 - position]
                if self._is_handed(argument) and isinstance(other, Tensor) and other.shape == argument.shape:
                    self.sums += 1
                    if func is torch.ops.aten.add.Tensor or position == 0:
                        return argument
                    self._handed.append(other.copy_(argument))
                    return other
        return func(*args, **kwargs)

    def _is_handed(self, value: Any) -> bool:
        return any(value is handed for handed in self._handed)


def _hands_on(module: nn.Module, call: _Call) -> bool:
    """Whether the module returns its first argument when everything that it adds to it is zero."""
    first = call.inputs[0].clone()
    mode = _ZeroBranches(first)
    try:
        with mode:
            output = module(first, *call.inputs[1:], **call.kwargs)
    except Exception:  # noqa: BLE001 - whatever the module's own code raises without its branches
        return False
    return mode.sums > 0 and isinstance(output, Tensor) and difference([output], [call.inputs[0]]) is None


def _without_branches(model: nn.Module, names: Iterable[str], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The model's output where the blocks give copies of their inputs."""
    with ExitStack() as hooks:
        for name in names:
            copies: list[Tensor] = []

            def before(module: nn.Module, inputs: tuple[Any, ...], copies: list[Tensor] = copies) -> None:
                copies.append(inputs[0].clone())

            def after(module: nn.Module, inputs: Any, output: Any, copies: list[Tensor] = copies) -> Tensor:
                return copies.pop()

            block = model.get_submodule(name)
            hooks.callback(block.register_forward_pre_hook(before).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        return _ran(model, args, kwargs, "")


def _ran(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str) -> Any:
    try:
        return model(*args, **kwargs)
    except Exception as error:
        raise StructureError(
            f"{what}the model does not run on the example inputs: it raised {type(error).__name__}: {error}"
        ) from error
