"""Another network with a session's parametrizations, such as an average, that is compressed in the place of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tersor.errors import MismatchError, UsageError, shortlist
from tersor.sessions.attachments import INPUTS
from tersor.sessions.wrapping import unwrapped
from tersor.shrinking.holding import Mask
from tersor.simulation import Simulation


def network_of(model: nn.Module, own: nn.Module, quantized: Iterable[str]) -> nn.Module:
    """The network in `model`, a copy or an average of `own`, the session's.

    quantized: the layers whose inputs are quantized. Masks, codes and whatever else simulations keep in buffers are
    made those of `own`, in place, where `model` is an AveragedModel that averages buffers.
    UsageError for what is no module; MismatchError for no copy, one that was finalized already, and one whose masks or
    codes are others than those of `own`: they may be averages, which mean nothing.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"finalize takes a copy of the session's network, got a {type(model).__name__}")
    averaged = isinstance(model, AveragedModel)
    network = unwrapped(model.module if isinstance(model, AveragedModel) else model)
    if network is own:
        return own
    _check_alike(network, own, quantized)
    pairs = _pairs(network, own)
    if averaged and bool(model.use_buffers):
        _take_buffers(pairs)
    elif not averaged:
        _check_buffers(pairs)
    return network


def _check_alike(network: nn.Module, own: nn.Module, quantized: Iterable[str]) -> None:
    theirs, ours = network.state_dict(), own.state_dict()
    missing = [name for name in ours if name not in theirs]
    parts = dict(network.named_modules())
    missing += [name for name in quantized if name not in parts or not hasattr(parts[name], INPUTS)]
    more = [name for name in theirs if name not in ours]
    if missing or more:
        differs = f"it has no {shortlist(missing)}" if missing else f"{shortlist(more)} are not in the session's"
        raise MismatchError(
            f"finalize: this is no copy of the session's network as it is now: {differs}. Copy the network, or make "
            "the average, after the last simulation began; what was finalized once is an ordinary network already"
        )
    for name, tensor in ours.items():
        if not isinstance(tensor, Tensor):
            continue  # extra states of modules
        if theirs[name].shape != tensor.shape or theirs[name].dtype != tensor.dtype:
            raise MismatchError(
                f"finalize: this is no copy of the session's network: {name} is {theirs[name].dtype} of shape "
                f"{tuple(theirs[name].shape)} instead of {tensor.dtype} of shape {tuple(tensor.shape)}"
            )


def _pairs(network: nn.Module, own: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """(name, theirs, ours) of each mask and simulation."""
    parts = dict(network.named_modules())
    found: list[tuple[str, nn.Module, nn.Module]] = []
    for name, ours in own.named_modules():
        if isinstance(ours, (Mask, Simulation)):
            theirs = parts.get(name)
            if theirs is None or type(theirs) is not type(ours):
                raise MismatchError(
                    f"finalize: this is no copy of the session's network: {name} is no {type(ours).__name__}"
                )
            found.append((name, theirs, ours))
    return found


@torch.no_grad()
def _take_buffers(pairs: Iterable[tuple[str, nn.Module, nn.Module]]) -> None:
    for _, theirs, ours in pairs:
        buffers = dict(ours.named_buffers())
        for name, buffer in theirs.named_buffers():
            buffer.copy_(buffers[name])


def _check_buffers(pairs: Iterable[tuple[str, nn.Module, nn.Module]]) -> None:
    """Codes and masks alone are compared: of floats an average may mean something, and single integers count."""
    for place, theirs, ours in pairs:
        buffers = dict(ours.named_buffers())
        for name, buffer in theirs.named_buffers():
            if buffer.is_floating_point() or buffer.numel() < 2:
                continue
            others = int((buffer != buffers[name].to(buffer.device)).sum())
            if others:
                raise MismatchError(
                    f"finalize: {others} of {buffer.numel()} entries of {place}.{name} are not those of the session's "
                    "network now. Of an average give the AveragedModel itself, session.finalize(average); to go back "
                    "to an older network, save states and load the one of that step"
                )
