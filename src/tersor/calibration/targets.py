"""Which weights of a model can be calibrated, by name, with what their modules do in a forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration import attention, products, recurrent
from tersor.calibration.layout import Layout
from tersor.calibration.observer import Observe
from tersor.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Target:
    """A module with weights to calibrate.

    module:  the module.
    layouts: name within the module -> layout, of the weights asked for.
    names:   name within the module -> name in the result.
    """

    module: nn.Module
    layouts: Mapping[str, Layout]
    names: Mapping[str, str]

    def weight(self, local: str) -> Tensor:
        """The weight of this name within the module."""
        owner, _, name = local.rpartition(".")
        weight: Tensor = getattr(self.module.get_submodule(owner), name)
        return weight


def find_targets(model: nn.Module, layers: Collection[str] | None) -> list[Target]:
    """The modules whose weights can be calibrated, in the order of `named_modules`.

    layers: names of weights or of modules; None for all. A weight that several modules share has one name, its first,
            unless they use it in different layouts (an embedding that is also the output layer).
    Raises UsageError for an unknown name, and for weights that do not exist yet (lazy modules).
    """
    wanted = None if layers is None else {layers} if isinstance(layers, str) else set(layers)
    inside_attention = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    # The weights are kept as well: a parametrized one is made anew by each access, and identities are used again.
    canonical: dict[tuple[int, Layout], tuple[str, Tensor]] = {}
    known: dict[str, str] = {}  # every name that may be asked for -> the name of its result
    found: list[Target] = []
    for path, module in model.named_modules():
        layouts = {} if id(module) in inside_attention else module_layouts(module)
        names = {}
        for local in layouts:
            weight = Target(module, {}, {}).weight(local)
            if isinstance(weight, (nn.UninitializedParameter, nn.UninitializedBuffer)):
                raise UsageError(f"{path}: a lazy module has no weights yet; run the model once before calibration")
            full = f"{path}.{local}" if path else local
            names[local] = canonical.setdefault((id(weight), layouts[local]), (full, weight))[0]
            known[full] = names[local]
        if layouts:
            found.append(Target(module, layouts, names))
    if wanted is None:
        return found
    asked = _asked(wanted, known)
    chosen = [Target(t.module, {n: y for n, y in t.layouts.items() if t.names[n] in asked}, t.names) for t in found]
    return [target for target in chosen if target.layouts]


def module_layouts(module: nn.Module) -> dict[str, Layout]:
    """Name within the module and layout of each weight that can be calibrated; empty for other modules."""
    if isinstance(module, nn.MultiheadAttention):
        return attention.layouts(module)
    if isinstance(module, recurrent.RECURRENT):
        return recurrent.layouts(module)
    layout = products.layout(module)
    return {} if layout is None else {"weight": layout}


def replay(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, observe: Observe) -> Any:
    """Tells `observe` what each weight of `module` multiplied in a forward pass; the output to go on with."""
    if isinstance(module, nn.MultiheadAttention):
        return attention.replay(module, args, kwargs, observe)
    if isinstance(module, recurrent.RECURRENT):
        return recurrent.replay(module, args, kwargs, observe)
    return products.replay(module, args, kwargs, output, observe)


def preview(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], observe: Observe) -> None:
    """`replay` before the module has run: what its weights are about to multiply. Uses have no outputs."""
    # Attention and recurrent modules compute their inner inputs themselves; transposed convolutions do not know the
    # size of their output from their input.
    needed = isinstance(module, products.TRANSPOSED)
    replay(module, args, kwargs, module.forward(*args, **kwargs) if needed else _NO_OUTPUT, observe)


_NO_OUTPUT = torch.empty(0)


def _asked(wanted: set[str], known: Mapping[str, str]) -> set[str]:
    asked = set()
    for name in sorted(wanted):
        matches = {known[name]} if name in known else {r for full, r in known.items() if full.startswith(f"{name}.")}
        if not matches:
            hint = did_you_mean(name, known) or f"; there are, for example, {', '.join(list(known)[:3])}"
            raise UsageError(f"layers: no weight {name!r} can be calibrated{hint}")
        asked |= matches
    return asked
