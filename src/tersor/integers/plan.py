"""What an integer network is, beside its weights: a small JSON text, and the network made from it.

The text and the codes rebuild the integer network from the float one of the same class, folded: `stored.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.adjacent import NORMS
from tersor.errors import MismatchError
from tersor.integers.arithmetic import Weight, Window
from tersor.integers.layers import IntegerConv, IntegerLayer, IntegerLinear, as_numbers
from tersor.integers.recurrent import IntegerLSTM
from tersor.simulation.affine import Affine
from tersor.tensors import Uniform
from tersor.versioned import read_versioned

NAME = "tersor.integers"
"""Of the attachment in a .tsr file."""

_FORMAT = 1
_LIMIT = 16 << 20  # characters


@dataclass(frozen=True)
class Layer:
    """A Linear or convolution in integers.

    window: of convolutions. grid: of the inputs; None where each batch gets its own. limits: of the activation that the
    layer applies itself. output: the grid that its outputs are left on, for the one layer that takes them in. codes:
    whether it is such a layer, whose inputs are on its grid already.
    """

    window: Window | None = None
    grid: Affine | None = None
    limits: tuple[float, float] | None = None
    output: Affine | None = None
    codes: bool = False


@dataclass(frozen=True)
class Plan:
    """bits: of dynamic inputs. layers: by name. recurrent: names of LSTMs. merged: batch norm -> the layer that takes
    its bias over. activations: names of modules that layers apply themselves."""

    bits: int = 8
    layers: Mapping[str, Layer] = field(default_factory=dict)
    recurrent: tuple[str, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)
    activations: tuple[str, ...] = ()

    def codes(self, parameter: str) -> bool:
        """Whether a parameter, by its name, is held as codes."""
        module, _, own = parameter.rpartition(".")
        return (own == "weight" and module in self.layers) or ("weight" in own and module in self.recurrent)

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        top = {
            "format": _FORMAT,
            "bits": self.bits,
            "layers": {name: _written(layer) for name, layer in self.layers.items()},
            "recurrent": list(self.recurrent),
            "merged": dict(self.merged),
            "activations": list(self.activations),
        }
        return json.dumps(top, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`. MismatchError for anything else; what it says is checked when it is carried out."""
        return read_versioned(
            text,
            cls._of,
            version=_FORMAT,
            limit=_LIMIT,
            error=MismatchError,
            what="what the file says of the integer network",
        )

    @classmethod
    def _of(cls, top: Mapping[str, Any]) -> Plan:
        layers = {str(name): _read(own) for name, own in top["layers"].items()}
        merged = {str(norm): str(layer) for norm, layer in top["merged"].items()}
        recurrent, activations = (tuple(map(str, top[key])) for key in ("recurrent", "activations"))
        bits = int(top["bits"])
        if not 2 <= bits <= 8:
            raise ValueError(f"{bits} bits")
        return cls(bits, layers, recurrent, merged, activations)


@torch.no_grad()
def merge(model: nn.Module, merged: Mapping[str, str]) -> None:
    """Batch norms that only add a bias (`fold_batch_norms`) into the biases of the layers before them, in place."""
    for norm_name, layer_name in merged.items():
        norm, layer = _module(model, norm_name), _module(model, layer_name)
        if not isinstance(norm, NORMS) or norm.running_mean is None or norm.running_var is None or norm.bias is None:
            raise MismatchError(f"{norm_name}: a batch norm with running moments was expected, got {norm!r}")
        if norm.weight is None or not bool((norm.weight == 1).all()):
            raise MismatchError(f"{norm_name}: its factors were expected in the weight before it, folded")
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if not isinstance(weight, Tensor) or len(weight) != norm.num_features:
            raise MismatchError(f"{layer_name}: a layer of {norm.num_features} outputs was expected, got {layer!r}")
        shift = norm.bias.double() - norm.running_mean.double()
        old = torch.zeros_like(shift) if bias is None else bias.double()
        layer.bias = nn.Parameter((old + shift).to(weight.dtype))
        _replace(model, norm_name, nn.Identity())


@torch.no_grad()
def assemble(model: nn.Module, plan: Plan, weights: Mapping[str, Uniform]) -> nn.Module:
    """The integer network of the float network `model`, which is used up.

    weights: codes by the parameter's name. MismatchError where names, kinds or shapes do not fit.
    """
    merge(model, plan.merged)
    for name, layer in plan.layers.items():
        model = _replace(model, name, _integer_layer(_module(model, name), name, layer, plan.bits, weights))
    for name in plan.recurrent:
        own = _module(model, name)
        if not isinstance(own, nn.LSTM):
            raise MismatchError(f"{name}: an LSTM was expected, got {type(own).__name__}")
        prefix = f"{name}." if name else ""
        codes = {local: weights.get(prefix + local) for local, _ in own.named_parameters() if "weight" in local}
        model = _replace(model, name, IntegerLSTM.of(own, name, codes, plan.bits))
    for name in plan.activations:
        _module(model, name)
        _replace(model, name, nn.Identity())
    for module in model.modules():
        # The fused kernels of torch take the weights of the linear layers out of these.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model.eval()


def _integer_layer(
    module: nn.Module, name: str, layer: Layer, bits: int, weights: Mapping[str, Uniform]
) -> IntegerLayer:
    found = weights.get(f"{name}.weight" if name else "weight")
    dims = 2 if layer.window is None else 2 + len(layer.window.stride)
    own = getattr(module, "weight", None)
    if found is None or not isinstance(own, Tensor) or found.shape != own.shape or own.dim() != dims:
        raise MismatchError(f"{name}: the codes are of another layer than {module!r}")
    bias = getattr(module, "bias", None)
    bias = torch.zeros(len(own)) if bias is None else bias.detach().float().clone()
    weight = Weight(found.codes.clone(), found.scale.expand(len(own), 1)[:, 0].contiguous(), bias)
    new: IntegerLayer
    if layer.window is None:
        new = IntegerLinear(weight, layer.grid, bits)
    else:
        new = IntegerConv(weight, layer.window, layer.grid, bits)
    new.limits = layer.limits
    new.takes_codes = layer.codes
    new.output_grid = as_numbers(layer.output)
    return new


def chained(plan: Plan, following: Mapping[str, str]) -> Plan:
    """`plan` with outputs on the grid of the layer that `following` names for a layer."""
    layers = dict(plan.layers)
    for name, after in following.items():
        layers[name] = replace(layers[name], output=layers[after].grid)
        layers[after] = replace(layers[after], codes=True)
    return replace(plan, layers=layers)


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise MismatchError(f"{name}: the model has no such module") from error


def _replace(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Puts `new` in the place of a submodule, under all its names; returns the model, or `new` in its place."""
    old = _module(model, name)
    if old is model:
        return new
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
    return model


def _written(layer: Layer) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if layer.window is not None:
        w = layer.window
        own["window"] = [list(w.before), list(w.after), list(w.stride), list(w.dilation), w.groups]
    for key, grid in (("grid", layer.grid), ("output", layer.output)):
        if grid is not None:
            own[key] = [grid.scale, grid.zero, grid.low, grid.high]
    if layer.limits is not None:
        low, high = layer.limits
        own["limits"] = [low, None if high == float("inf") else high]
    return {**own, "codes": True} if layer.codes else own


def _read(own: Mapping[str, Any]) -> Layer:
    window = None
    if "window" in own:
        *sides, groups = own["window"]
        before, after, stride, dilation = (tuple(int(n) for n in side) for side in sides)
        spatial = {len(before), len(after), len(stride), len(dilation)}
        if len(spatial) != 1 or not spatial <= {1, 2, 3} or min(*before, *after, 0) < 0 or int(groups) < 1:
            raise ValueError(f"a window of {own['window']!r}")
        if min(*stride, *dilation, 1) < 1:
            raise ValueError(f"a window of {own['window']!r}")
        window = Window(before, after, stride, dilation, int(groups))
    grids = [_grid(own[key]) if key in own else None for key in ("grid", "output")]
    limits = None
    if "limits" in own:
        low, high = own["limits"]
        limits = float(low), float("inf") if high is None else float(high)
    return Layer(window, grids[0], limits, grids[1], own.get("codes") is True)


def _grid(numbers: Any) -> Affine:
    scale, zero, low, high = numbers
    return Affine(float(scale), int(zero), int(low), int(high))
