"""Batch norms folded into the layers before them, and what is left of them: a bias.

In evaluation mode a batch norm is y = gamma (x - mu) / sqrt(var + eps) + beta, an affine function of each channel. Its
factor goes into the rows of the weight, so that one quantization error serves both, and its shift into beta. Names and
shapes stay: a folded network goes into the same file, and loads into the same module. (Jacob et al. 2018, 3.2)

Legend: O output channels, s = gamma / sqrt(var + eps), W' = s W, beta' = beta + s (b - mu).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.adjacent import NORMS, adjacent
from tersor.calibration.copying import copied
from tersor.calibration.guard import untouched
from tersor.calibration.objectives import main_output
from tersor.calibration.products import layout
from tersor.calibration.samples import batches, call
from tersor.calibration.targets import find_targets
from tersor.errors import CalibrationError

_TOLERANCE = 1e-4
"""Root mean square of what folding may change of an output, relative to that of the output less its mean, or to a
hundredth of the output's own where that is more."""

_NARROW_TOLERANCE = 0.05
"""The same for a model that only runs in 16-bit floats, whose own rounding is of this order."""

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Folded:
    """A network whose batch norms only add a bias.

    model:   in evaluation mode, the same function as the model given, up to rounding. Running means are 0 and running
             variances 1 - eps, so that in *training* mode it is another function until these have been estimated again.
    bias_of: name of a weight -> name of the bias, (O,), in `model` that moves the same outputs one to one: the folded
             batch norm's, or the layer's own. Weights without such a place (and those of RNNs) are absent.
    folded:  name of a batch norm -> name of the module that it was folded into.
    """

    model: nn.Module
    bias_of: Mapping[str, str]
    folded: Mapping[str, str]


def fold_batch_norms(model: nn.Module, samples: Iterable[Any], *, seed: int = 0) -> Folded:
    """A copy of `model` with every batch norm folded that alone takes in what a layer gives out.

    That is: Linear, convolutions, grouped and transposed ones included, used once, with tensors of their own. Any other
    batch norm is normalised by itself: gamma' = s, beta' = beta - s mu. Batch norms without weight and bias, or without
    running moments, stay as they are, and so do those whose fold would not be finite.

    Of `samples` (as in `collect`) the first batch is used: one pass finds the pairs, one more tells whether the
    outputs stayed; if not, the pairs at fault are sought out and left. Models of 16-bit floats are folded in float32
    and rounded at the end. Only floats of the affected modules change.

    Raises UsageError for no samples, or a model that cannot be copied; CalibrationError if the model rejects them.
    """
    batch = next(iter(batches(samples)))[1]
    result = copied(model).eval()
    if not any(_affine(module) for module in result.modules()):
        return Folded(result, bias_of(result), {})
    work, batch, tolerance = _widened(result, batch, seed)
    reference = _outputs(work, batch, seed)
    pairs = adjacent(work, batch, seed)
    changes = []
    for name, module in work.named_modules():
        if _affine(module):
            layer = pairs.get(name)
            change = None if layer is None else _fold(module, name, work.get_submodule(layer), layer)
            alone = _alone(module, name)
            changes.append((change or alone, alone))

    def harmless() -> bool:
        return _distance(reference, _outputs(work, batch, seed)) <= tolerance

    kept = _largest_harmless([(c, a) for c, a in changes if c is not None], harmless)
    if work is not result:
        _copy_back(kept, work, result)
    folded = {change.norm: change.layer for change in kept if change.layer is not None}
    return Folded(result, bias_of(result, folded), folded)


def bias_of(model: nn.Module, folded: Mapping[str, str] | None = None) -> dict[str, str]:
    """See `Folded.bias_of`. `folded` as in `Folded`; None where nothing is.

    Attention's in_proj_bias has the 3 E rows of in_proj_weight in order. Weights or biases that several modules
    share are absent: one correction would not suit both.
    """
    norms = {layer: norm for norm, layer in (folded or {}).items()}
    paths = {id(module): path for path, module in model.named_modules()}
    targets = find_targets(model, None)
    users = [target.names[local] for target in targets for local in target.layouts]
    found: dict[str, str] = {}
    owners = Counter(
        id(bias) for module in model.modules() for key, bias in module._parameters.items() if "bias" in key
    )
    for target in targets:
        path = paths[id(target.module)]
        for local, name in target.names.items():
            if users.count(name) > 1:
                continue
            if path in norms:
                found[name] = f"{norms[path]}.bias"
                continue
            bias = local.removesuffix("weight") + "bias" if local.endswith("weight") else ""
            owner, _, attribute = bias.rpartition(".")
            tensor = getattr(target.module.get_submodule(owner), attribute, None)
            if isinstance(tensor, nn.Parameter) and owners[id(tensor)] == 1:
                found[name] = f"{path}.{bias}" if path else bias
    return found


@dataclass(frozen=True)
class _Change:
    """New values of the tensors of a batch norm and, if `layer` is not None, of the layer before it; and the old."""

    norm: str
    layer: str | None
    tensors: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    before: tuple[Tensor, ...]

    def write(self) -> None:
        """Puts the new values in place."""
        self._copy(self.values)

    def undo(self) -> None:
        """Puts the old values back."""
        self._copy(self.before)

    def _copy(self, values: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self.tensors, values, strict=True):
                tensor.copy_(value)


def _affine(module: nn.Module) -> bool:
    return (
        isinstance(module, NORMS)
        and all(isinstance(module._parameters.get(key), nn.Parameter) for key in ("weight", "bias"))
        and module.running_mean is not None
        and module.running_var is not None
        and 0 <= module.eps < 1
    )


def _fold(norm: nn.Module, name: str, layer: nn.Module, layer_name: str) -> _Change | None:
    """The fold of a pair, None if it is not finite, or its two modules do not have the same channels."""
    arrangement = layout(layer)
    assert arrangement is not None and isinstance(norm, NORMS) and isinstance(layer.weight, Tensor)
    groups, rows, _ = arrangement.shape(layer.weight.shape)
    if groups * rows != norm.num_features or norm.running_mean is None:
        return None
    scale = _scale(norm)
    matrices = arrangement.matrices(layer.weight.detach().double()) * scale.reshape(groups, rows, 1)
    bias = layer.bias if isinstance(layer.bias, Tensor) else None
    offset = -norm.running_mean.double() if bias is None else bias.detach().double() - norm.running_mean.double()
    shift = norm.bias.detach().double() + scale * offset
    tensors, values = [layer.weight], [arrangement.weight(matrices, layer.weight.shape)]
    if bias is not None:
        tensors.append(bias)
        values.append(torch.zeros_like(bias))
    return _change(name, layer_name, norm, torch.ones_like(scale), shift, tensors, values)


def _alone(norm: nn.Module, name: str) -> _Change | None:
    """A batch norm that only multiplies and adds; None if that is not finite."""
    assert isinstance(norm, NORMS) and norm.running_mean is not None
    scale = _scale(norm)
    return _change(name, None, norm, scale, norm.bias.detach().double() - scale * norm.running_mean.double(), [], [])


def _scale(norm: nn.Module) -> Tensor:
    assert isinstance(norm, NORMS) and norm.running_var is not None
    return norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()


def _change(
    name: str, layer: str | None, norm: nn.Module, scale: Tensor, shift: Tensor, tensors: list[Tensor],
    values: list[Tensor],
) -> _Change | None:  # fmt: skip
    assert isinstance(norm, NORMS) and norm.running_mean is not None and norm.running_var is not None
    # Rounded to the buffer's dtype: in float32, 1 - eps plus eps is exactly 1 again.
    unit = torch.full_like(norm.running_var, 1.0 - norm.eps)
    all_tensors = (*tensors, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    new = (*values, scale, shift, torch.zeros_like(norm.running_mean), unit)
    cast = tuple(value.to(tensor.dtype) for value, tensor in zip(new, all_tensors, strict=True))
    if not all(bool(torch.isfinite(value).all()) for value in cast):
        return None
    return _Change(name, layer, all_tensors, cast, tuple(t.detach().clone() for t in all_tensors))


def _largest_harmless(changes: list[tuple[_Change, _Change | None]], harmless: Any) -> list[_Change]:
    """Writes the changes, and gives those that stay: where one does harm, the other of its pair, or none, is taken.

    Halves that do harm are halved again, so that few passes find few culprits.
    """
    for change, _ in changes:
        change.write()
    if harmless():
        return [change for change, _ in changes]
    for change, _ in changes:
        change.undo()
    if len(changes) == 1:
        change, alone = changes[0]
        return [] if alone is None or alone is change else _largest_harmless([(alone, None)], harmless)
    middle = len(changes) // 2
    return [*_largest_harmless(changes[:middle], harmless), *_largest_harmless(changes[middle:], harmless)]


def _outputs(model: nn.Module, batch: Any, seed: int) -> list[Tensor]:
    with torch.no_grad(), untouched(model, seed):
        output = call(model, batch, 0)
    found = [t.clone() for t in _floats(output)]
    return found or [main_output(output).clone()]


def _floats(output: Any) -> list[Tensor]:
    """All float tensors of an output, nested ones included."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _floats(part)]


def _distance(expected: list[Tensor], got: list[Tensor]) -> float:
    """The largest relative change of an output; infinite where shapes differ or only one of two is NaN."""
    if [t.shape for t in expected] != [t.shape for t in got]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, got, strict=True):
        a, b = a.double(), b.double()
        strange = ~torch.isfinite(a)
        if not torch.equal(strange, ~torch.isfinite(b)):
            return float("inf")
        a, b = a[~strange], b[~strange]
        if a.numel():
            worst = max(worst, float((a - b).norm() / (a - a.mean()).norm().clamp(min=0.01 * float(a.norm()) + 1e-30)))
    return worst


def _widened(model: nn.Module, batch: Any, seed: int) -> tuple[nn.Module, Any, float]:
    """Model, batch and tolerance; where the model holds 16-bit floats and runs in float32, too, a copy in float32."""
    if not any(t.dtype in _NARROW for t in [*model.parameters(), *model.buffers()]):
        return model, batch, _TOLERANCE
    wide, floats = copy.deepcopy(model).float(), _wide(batch)
    try:
        _outputs(wide, floats, seed)
    except CalibrationError:
        return model, batch, _NARROW_TOLERANCE
    return wide, floats, _TOLERANCE


def _wide(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.float() if part.dtype in _NARROW else part
    if isinstance(part, Mapping):
        return {key: _wide(value) for key, value in part.items()}
    return [_wide(value) for value in part] if isinstance(part, (tuple, list)) else part


def _copy_back(changes: list[_Change], work: nn.Module, result: nn.Module) -> None:
    """The changed tensors of `work`, into those of the same names in `result`."""
    changed = {id(tensor) for change in changes for tensor in change.tensors}
    target = dict([*result.named_parameters(), *result.named_buffers()])
    with torch.no_grad():
        for name, tensor in [*work.named_parameters(), *work.named_buffers()]:
            if id(tensor) in changed:
                target[name].copy_(tensor)
