"""The optimizer's part of a session: groups for the parameters that simulations bring with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tersor.errors import ResumeError, UsageError
from tersor.sessions.processes import average, count

_KEY = "tersor_rate"
"""Marks the groups; they stay the same in number, because schedulers of learning rates count them."""


class OwnParameters:
    """Groups of an optimizer, one a rate, without weight decay; empty until parameters come.

    Where processes train together, the gradients of these parameters are averaged before each step: they may have come
    after DistributedDataParallel was told what there is. Groups that a session which is over has left are taken off.
    UsageError for what is no torch optimizer, or takes no second group.
    """

    def __init__(self, optimizer: Optimizer, rates: Iterable[float]) -> None:
        check_kind(optimizer)
        self.optimizer = optimizer
        self.parameters: list[nn.Parameter] = []
        if not _in_use(optimizer):
            optimizer.param_groups[:] = [g for g in optimizer.param_groups if _KEY not in g or g["params"]]
        for rate in dict.fromkeys(float(rate) for rate in rates):
            _add_group(optimizer, rate)
        self._hook = optimizer.register_step_pre_hook(self._average)

    def add(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        """Gives parameters to the group of their rate, and takes them from any other."""
        new = [parameter for parameter in parameters if parameter.requires_grad]
        take_off(self.optimizer, new)
        group = next(group for group in self.optimizer.param_groups if group.get(_KEY) == float(rate))
        group["params"].extend(new)
        if "param_names" in group:
            count = len(self.parameters)
            group["param_names"] = [*group["param_names"], *(f"tersor.{count + n}" for n in range(len(new)))]
        self.parameters += new

    def close(self) -> None:
        """Leaves the optimizer without hooks and without these parameters."""
        self._hook.remove()
        take_off(self.optimizer, self.parameters)
        for parameter in self.parameters:
            self.optimizer.state.pop(parameter, None)

    def _average(self, *_: Any) -> None:
        if count() == 1:
            return
        whole = [parameter for parameter in self.parameters if not hasattr(parameter, "placements")]
        for parameter in whole:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        average([parameter.grad for parameter in whole if parameter.grad is not None])


def check_kind(optimizer: object) -> None:
    """UsageError for what is no torch optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")


def check_held(optimizer: Optimizer, model: nn.Module) -> None:
    """UsageError for an optimizer that would move nothing of `model`. Others' parameters may be in it, too."""
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if own and not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise UsageError(
            f"the optimizer ({type(optimizer).__name__}) holds none of the model's parameters that train, and would "
            "move none of them: make it of model.parameters(), of this very model, after what replaces parameters "
            "(fully_shard, copies)"
        )


def take_off(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Takes parameters from all groups of an optimizer, with their names where it was given names."""
    taken = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        stay = [id(parameter) not in taken for parameter in group["params"]]
        for key in ("params", "param_names"):
            if key in group:
                group[key] = [each for each, stays in zip(group[key], stay, strict=True) if stays]


def _add_group(optimizer: Optimizer, rate: float) -> None:
    group: dict[str, Any] = {"params": [], "lr": rate, _KEY: rate}
    if "param_names" in optimizer.param_groups[0]:
        group["param_names"] = []
    if "weight_decay" in optimizer.defaults:
        group["weight_decay"] = 0.0
    try:
        if isinstance(optimizer, torch.optim.LBFGS):  # which would take it, but no step
            raise ValueError("it trains one group alone")
        optimizer.add_param_group(group)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        raise UsageError(
            f"{type(optimizer).__name__} takes no second group of parameters ({error}), but the recipe brings some of "
            "its own to train: use another optimizer, or techniques without (docs/training.md lists them)"
        ) from error


def _in_use(optimizer: Optimizer) -> bool:
    """Whether a session that is not over has its groups there."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), OwnParameters) for hook in hooks)


def optimizer_state(own: OwnParameters | None) -> dict[str, Any] | None:
    """What is saved of a session's optimizer: the name of its class, and its state."""
    return None if own is None else {"name": type(own.optimizer).__name__, "state": own.optimizer.state_dict()}


def check_optimizer(saved: Mapping[str, Any] | None, own: OwnParameters | None) -> None:
    """ResumeError, naming both, unless `saved` (`optimizer_state`) is of an optimizer of the same class, groups and
    numbers of parameters. What simulations bring comes and goes: the rates of their groups alone count."""
    there, here = _described(saved), _described(optimizer_state(own))
    if there != here:
        raise ResumeError(
            f"the state was saved with {there}, but this session has {here}; make the same optimizer with the same "
            "groups of parameters before prepare"
        )


def _described(saved: Mapping[str, Any] | None) -> str:
    if saved is None:
        return "no optimizer"
    groups = saved["state"]["param_groups"]
    sizes = " + ".join(str(len(group["params"])) for group in groups if _KEY not in group)
    rates = ", ".join(f"{group[_KEY]:g}" for group in groups if _KEY in group)
    simulations = f" and, for simulations, groups of rates {rates}" if rates else ""
    return f"{saved['name']} of {sizes} parameters{simulations}"
