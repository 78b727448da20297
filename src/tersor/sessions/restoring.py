"""What fails on its way leaves nothing half done: networks, optimizers and other objects, put back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.sessions.state import random_state, set_random_state

Back = Callable[[], None]


@contextmanager
def unchanged_on_error(
    modules: Iterable[nn.Module],
    optimizer: Optimizer | None = None,
    others: Iterable[object] = (),
    *,
    values: bool = False,
) -> Iterator[None]:
    """Whatever is raised within, all of these are as they were then, and raise it again.

    modules: with their submodules, hooks, parametrizations, parameters (the same objects) and masks. optimizer: its
    groups and moments. others: their attributes. Random numbers go back, too.
    values: whether values of parameters and buffers are written within. They are copied before, which takes the memory
            of the modules once more; else those of masks alone are.
    """
    random = random_state()
    backs: list[Back] = [_attributes(thing) for thing in others]
    for module in modules:
        backs += [_attributes(part) for part in module.modules()]
        backs += [_tensor(parameter, values) for parameter in module.parameters()]
        backs += [_tensor(buffer, values or buffer.dtype == torch.bool) for buffer in module.buffers()]
    if optimizer is not None:
        backs.append(_optimizer(optimizer))
    try:
        yield
    except BaseException:
        for back in backs:
            back()
        set_random_state(random)
        raise


def _attributes(thing: object) -> Back:
    """Class and attributes. Dictionaries and lists among them stay the same objects: handles of hooks know them."""
    kind, own = type(thing), dict(vars(thing))
    dicts = {key: dict(value) for key, value in own.items() if isinstance(value, dict)}
    lists = {key: list(value) for key, value in own.items() if isinstance(value, list)}

    def back() -> None:
        if type(thing) is not kind:
            thing.__class__ = kind  # type: ignore[assignment]
        vars(thing).clear()
        vars(thing).update(own)
        for key, content in dicts.items():
            own[key].clear()
            own[key].update(content)
        for key, items in lists.items():
            own[key][:] = items

    return back


def _tensor(tensor: Tensor, value: bool) -> Back:
    data, grad = tensor.data, tensor.grad
    kept = data.clone() if value else None

    def back() -> None:
        tensor.data, tensor.grad = data, grad
        if kept is not None:
            data.copy_(kept)

    return back


def _optimizer(optimizer: Optimizer) -> Back:
    whole = _attributes(optimizer)
    groups: list[tuple[dict[str, Any], dict[str, Any], list[Tensor]]] = [
        (group, dict(group), list(group["params"])) for group in optimizer.param_groups
    ]
    states = {parameter: (state, dict(state)) for parameter, state in optimizer.state.items()}

    def back() -> None:
        whole()
        for group, content, parameters in groups:
            group.clear()
            group.update(content)
            group["params"][:] = parameters
        for state, content in states.values():
            state.clear()
            state.update(content)

    return back
