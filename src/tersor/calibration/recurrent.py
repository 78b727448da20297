"""RNN, LSTM and GRU: the inputs of every layer's and direction's weights, by an explicit forward pass.

The fused kernels of torch show neither hidden states nor gates. Equations as in the documentation of
torch.nn.LSTM, GRU and RNN.

Legend: T steps, B samples, I inputs, H hidden units, Q gates (LSTM 4, GRU 3, RNN 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from tersor.calibration.features import dense_features
from tersor.calibration.layout import Layout
from tersor.calibration.observer import Observe, Use
from tersor.calibration.products import rows_last

RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)

_Output = tuple[Any, Any]


def layouts(module: nn.RNNBase) -> dict[str, Layout]:
    """Name and layout of every weight of `module`."""
    return {name: Layout() for name, _ in module.named_parameters(recurse=False) if name.startswith("weight")}


def replay(module: nn.RNNBase, args: tuple[Any, ...], kwargs: Mapping[str, Any], observe: Observe) -> _Output:
    """The module's forward pass, telling `observe` of each weight once a sequence batch; returns its output."""
    x, state = _arguments(args, kwargs)
    if isinstance(x, PackedSequence):
        return _packed(module, x, state, observe)
    unbatched = x.dim() == 2
    batch_first = module.batch_first and not unbatched
    x = x[:, None] if unbatched else x.transpose(0, 1) if batch_first else x
    if unbatched and state is not None:
        state = tuple(s[:, None] for s in state)
    y, final = _forward(module, x, state, observe)
    y = y[:, 0] if unbatched else y.transpose(0, 1) if batch_first else y
    if unbatched:
        final = tuple(s[:, 0] for s in final)
    return y, final if isinstance(module, nn.LSTM) else final[0]


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, tuple[Tensor, ...] | None]:
    x = args[0] if args else kwargs["input"]
    state = args[1] if len(args) > 1 else kwargs.get("hx")
    return x, None if state is None else (state,) if isinstance(state, Tensor) else tuple(state)


def _packed(module: nn.RNNBase, x: PackedSequence, state: tuple[Tensor, ...] | None, observe: Observe) -> _Output:
    """Sequences of different lengths, one at a time: a reversed direction starts at each one's own end."""
    outputs, finals = [], []
    for i, sequence in enumerate(unpack_sequence(x)):
        own = None if state is None else tuple(s[:, i : i + 1] for s in state)
        y, final = _forward(module, sequence[:, None], own, observe)
        outputs.append(y[:, 0])
        finals.append(final)
    joined = tuple(torch.cat(parts, 1) for parts in zip(*finals, strict=True))
    packed = pack_sequence(outputs, enforce_sorted=x.sorted_indices is None)
    return packed, joined if isinstance(module, nn.LSTM) else joined[0]


def _forward(
    module: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...] | None, observe: Observe
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions; x (T, B, I) -> (T, B, directions * H) and the final states."""
    directions = 2 if module.bidirectional else 1
    finals = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            own = _initial(module, x) if state is None else tuple(s[at] for s in state)
            forward = x.flip(0) if direction else x
            y, final = _run(module, f"_l{layer}" + "_reverse" * direction, forward, own, observe)
            outputs.append(y.flip(0) if direction else y)
            finals.append(final)
        x = torch.cat(outputs, 2)
    return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _initial(module: nn.RNNBase, x: Tensor) -> tuple[Tensor, ...]:
    h = x.new_zeros(x.shape[1], module.proj_size or module.hidden_size)
    return (h, x.new_zeros(x.shape[1], module.hidden_size)) if isinstance(module, nn.LSTM) else (h,)


@dataclass(frozen=True)
class _Scan:
    """What one direction of one layer did. Lists are by step."""

    outputs: list[Tensor]
    state: tuple[Tensor, ...]
    hidden: list[Tensor]
    """h before the step: the inputs of weight_hh."""
    unprojected: list[Tensor]
    """The inputs of weight_hr, where the LSTM has one."""


def _run(
    module: nn.RNNBase, suffix: str, x: Tensor, state: tuple[Tensor, ...], observe: Observe
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer. x (T, B, I), already in the order of time -> (T, B, H), final state."""
    gates = _product(module, "ih", suffix, x)
    gates = observe(Use(f"weight_ih{suffix}", dense_features(x.detach().transpose(0, 1)), gates, _time_first))
    # A first pass finds the inputs of the recurrent weights; in a second one, zeros that are added to their products
    # bring the gradients of all steps in one tensor.
    with torch.no_grad():
        scan = _scan(module, suffix, gates.detach(), state, {})
    added = {}
    for name, inputs in (("hh", scan.hidden), ("hr", scan.unprojected)):
        if inputs:
            weight = f"weight_{name}{suffix}"
            zeros = gates.new_zeros(x.shape[0], x.shape[1], getattr(module, weight).shape[0])
            added[name] = observe(Use(weight, dense_features(torch.stack(inputs, 1)), zeros, _time_first))
    if observe.gradients:
        scan = _scan(module, suffix, gates, state, added)
    return torch.stack(scan.outputs), scan.state


def _scan(
    module: nn.RNNBase, suffix: str, gates: Tensor, state: tuple[Tensor, ...], added: Mapping[str, Tensor]
) -> _Scan:
    """Steps through `gates` (T, B, Q H), the products of the inputs; `added` (T, B, rows) by name of the weight."""

    def product(name: str, t: int, inputs: Tensor) -> Tensor:
        y = _product(module, name, suffix, inputs)
        return y + added[name][t] if name in added else y

    scan = _Scan([], state, [], [])
    for t in range(gates.shape[0]):
        h = state[0]
        scan.hidden.append(h)
        a, b = gates[t], product("hh", t, h)
        if isinstance(module, nn.LSTM):
            i, f, g, o = (a + b).chunk(4, 1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            if module.proj_size:
                scan.unprojected.append(h)
                h = product("hr", t, h)
            state = (h, c)
        elif isinstance(module, nn.GRU):
            (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
            z = (az + bz).sigmoid()
            h = (1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h
            state = (h,)
        else:
            h = (a + b).relu() if module.mode == "RNN_RELU" else (a + b).tanh()
            state = (h,)
        scan.outputs.append(h)
    return replace(scan, state=state)


def _product(module: nn.RNNBase, name: str, suffix: str, inputs: Tensor) -> Tensor:
    bias = getattr(module, f"bias_{name}{suffix}") if module.bias and name != "hr" else None
    return nn.functional.linear(inputs, getattr(module, f"weight_{name}{suffix}"), bias)


def _time_first(gradient: Tensor) -> Tensor:
    return rows_last(gradient.transpose(0, 1))
