"""Changes to a module that can all be taken back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tersor.errors import StructureError

Keys = tuple[str | int, ...]
"""The way from a module to one of its integers: attribute, then keys of dicts, indices, attributes of configs."""

_TORCH = frozenset(vars(nn.Module()))
_DEPTH = 3
_WIDTH = 64  # longer lists are data, not settings


class Edits:
    """Changes what a module holds, and remembers how to undo that. Nothing else of this package changes modules."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def mark(self) -> int:
        """A moment that `rollback` can go back to."""
        return len(self._undo)

    def rollback(self, mark: int = 0) -> None:
        """Takes back every change since `mark`, the last one first."""
        while len(self._undo) > mark:
            self._undo.pop()()

    def tensor(self, module: nn.Module, name: str, value: Tensor) -> None:
        """Puts a parameter, a buffer or a plain tensor attribute in the place of the one of that name."""
        self._set(module, name, value)

    def child(self, module: nn.Module, name: str, value: nn.Module) -> None:
        """Puts a submodule in the place of the direct child `name`."""
        old = module._modules[name]
        module._modules[name] = value
        self._undo.append(lambda: module._modules.update({name: old}))

    def integer(self, module: nn.Module, keys: Keys, value: int) -> None:
        """Sets one of `integers(module)`. Configs, lists and dicts on the way are copied: others may hold them."""
        name = str(keys[0])
        old = vars(module)[name]
        vars(module)[name] = _replaced(old, keys[1:], value)
        self._undo.append(lambda: vars(module).update({name: old}))

    def kind(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """Makes `module` one of another class, which holds the same."""
        old = type(module)
        module.__class__ = kind
        self._undo.append(lambda: setattr(module, "__class__", old))

    def hook(self, hooks: dict[Any, Any], wanted: Mapping[Any, Any]) -> None:
        """Makes `hooks` hold what `wanted` does."""
        old = dict(hooks)
        self._undo.append(lambda: _refill(hooks, old))
        _refill(hooks, wanted)

    def _set(self, module: nn.Module, name: str, value: Tensor) -> None:
        old = getattr(module, name)
        setattr(module, name, value)  # recurrent layers keep a second list of their weights, which follows
        self._undo.append(lambda: setattr(module, name, old))


def _refill(target: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    target.clear()
    target.update(content)


def integers(module: nn.Module) -> dict[Keys, int]:
    """The integers that `module` itself holds, outside of what nn.Module keeps, by the way to them.

    In attributes, in tuples, lists and dicts of them, and in the attributes of plain objects (configs).
    """
    found: dict[Keys, int] = {}
    for name, value in vars(module).items():
        if name not in _TORCH:
            found.update(_walk(value, (name,), _DEPTH))
    return found


def _walk(value: Any, keys: Keys, depth: int) -> Iterator[tuple[Keys, int]]:
    if type(value) is int:
        yield keys, value
    elif depth:
        for key, part in _parts(value):
            yield from _walk(part, (*keys, key), depth - 1)


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, (tuple, list)):
        return list(enumerate(value)) if len(value) <= _WIDTH else []
    if isinstance(value, dict):
        return [(key, part) for key, part in value.items() if isinstance(key, str)] if len(value) <= _WIDTH else []
    if isinstance(value, (nn.Module, Tensor, Enum, ModuleType, type, torch.Generator)) or callable(value):
        return []
    return list(getattr(value, "__dict__", {}).items())


def _replaced(value: Any, keys: Keys, new: int) -> Any:
    """`value`, copied along `keys`, with `new` at their end."""
    if not keys:
        return new
    key, rest = keys[0], keys[1:]
    if isinstance(value, (tuple, list)):
        parts = list(value)
        parts[int(key)] = _replaced(parts[int(key)], rest, new)
        if isinstance(value, list) or type(value) is tuple:
            return type(value)(parts)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    copied = copy.copy(value)
    inside = copied if isinstance(copied, dict) else vars(copied)
    inside[str(key)] = _replaced(inside[str(key)], rest, new)
    return copied


def holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the tensor `name` ("layer.0.weight"), and what it calls it there.

    StructureError if there is none. Plain tensor attributes count, too: traced networks name them alike.
    """
    path, _, own = name.rpartition(".")
    try:
        module = root.get_submodule(path)
    except AttributeError:
        module = None
    value = None if module is None else {**vars(module), **module._buffers, **module._parameters}.get(own)
    if module is None or not isinstance(value, Tensor):
        raise StructureError(f"the network has no tensor {name!r}; give the module that the structure was found on")
    return module, own
