"""`tersor.quantize_int8`: a trained network, without training, as one that multiplies 8-bit integers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.calibration import LayerStatistics, bias_of, fold_batch_norms
from tersor.calibration.collect import collect
from tersor.calibration.guard import check_seed, untouched
from tersor.calibration.objectives import main_output
from tersor.calibration.products import CONVOLUTIONS
from tersor.calibration.samples import calibrating, call
from tersor.errors import CalibrationError, MismatchError, UsageError
from tersor.integers.chains import find_chains
from tersor.integers.forms import Form, dynamic_form
from tersor.integers.observe import Inputs, observe_inputs
from tersor.integers.plan import Layer, Plan, assemble, chained, merge
from tersor.integers.result import Integers
from tersor.integers.weights import check, integer_weight
from tersor.interop.raw import check_made
from tersor.quantization import NonFiniteError, Quantize
from tersor.shrinking.holding import finalized
from tersor.simulation.affine import Affine
from tersor.simulation.base import Simulation, class_name
from tersor.simulation.observers import Observe
from tersor.simulation.quantized_inputs import QuantizedInputs
from tersor.simulation.sign_activations import Signs
from tersor.tensors import Uniform

_CONVERTED = (nn.Linear, *CONVOLUTIONS)
_ENDS = Observe(method="min-max")
"""What is observed where nothing but means is needed of it."""


def quantize_int8(
    model: nn.Module,
    calibration: Iterable[Any] | None = None,
    *,
    static: bool = True,
    weights: Quantize | None = None,
    activations: Observe | None = None,
    keep: str | Sequence[str] = (),
    grids: Mapping[str, Affine] | None = None,
    feedback: bool = False,
    correct: bool = True,
    seed: int = 0,
) -> Integers:
    """Linear layers and convolutions (and LSTMs, if not `static`) in 8-bit integers, summed in 32 bits.

    model:       float32, on the CPU; it is not changed. Batch norms are folded into the layers before them.
    calibration: batches of samples, as of `compress`, a hundred samples or so, without labels. Not `static` works
                 without them, for layers of torch's own classes, and then folds nothing.
    static:      grids of activations are fixed by `calibration`; else each batch gets its own, from its ends.
    weights:     a symmetric grid of at most 8 bits, one step a row (default `Quantize(bits=8)`). Rows whose products
                 could overflow the 16 bits of some CPUs get somewhat larger steps.
    activations: bits, and how grids are found (default `Observe()`, least squared error); if not `static`, the bits.
    keep:        one pattern, or several, of names of layers that stay float.
    grids:       of inputs, by the name of the layer, that were trained or found elsewhere.
    feedback:    weights are rounded by error feedback (`calibration/feedback.py`), which takes a second pass.
    correct:     biases make up for the mean shift of rounded weights (Nagel et al. 2019, section 4.2).
    seed:        of whatever the model draws, and of the second pass.

    Layers that cannot be integers stay float, and `Integers.floats` says why. Raises UsageError for contradicting
    options, no samples, patterns that match nothing and networks of which nothing becomes integers; CalibrationError
    where samples do not fit the model, or a layer saw NaN or Inf.
    """
    weights = Quantize(bits=8) if weights is None else weights
    activations = Observe() if activations is None else activations
    _check_types(weights, activations, grids, static=static, feedback=feedback, correct=correct)
    _check(model, calibration, static, weights, feedback)
    check_seed(seed)
    keep = _patterns(keep)
    samples = calibrating(calibration)
    model = finalized(model)
    original = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    source = _prepared(model, samples, seed)
    layers, floats = _candidates(source.work, keep, static)
    if grids is not None and (unknown := [name for name in grids if name not in layers]):
        raise UsageError(f"grids: {unknown[0]!r} is no layer that becomes integers; such are {', '.join(layers[:3])}")
    seen: dict[str, Inputs] = {}
    if samples is not None:
        seen = observe_inputs(source.work, layers, samples, activations if static else _ENDS, seed)
    plan = _plan(source, layers, seen, static, activations.bits, floats)
    plan = replace(
        plan, layers={n: replace(own, grid=(grids or {}).get(n, own.grid)) for n, own in plan.layers.items()}
    )
    if not plan.layers and not plan.recurrent:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(floats.items())[:3])
        raise UsageError(f"no layer of the model becomes integers ({shown or 'it has none'})")
    statistics = None
    if feedback and samples is not None:
        names = [f"{name}.weight" if name else "weight" for name in plan.layers]
        statistics = collect(source.work, samples, layers=names, seed=seed, unreached="ignore")
    codes = _weights(source, plan, weights, activations.bits, statistics)
    if correct:
        _correct(source, plan, codes, seen)
    if static and samples is not None:
        plan = _linked(source, plan, samples[0], seed)
    return _assembled(source, plan, codes, floats, samples, original, seed)


@dataclass(frozen=True)
class _Source:
    """The float network. folded: names and shapes of the original. merged: batch norm -> layer. work: without those
    batch norms. bias_of: name of a weight -> name of the bias, in `folded`, that moves the same outputs."""

    folded: nn.Module
    merged: Mapping[str, str]
    work: nn.Module
    bias_of: Mapping[str, str]


def _check_types(weights: object, activations: object, grids: object, **flags: object) -> None:
    if not isinstance(weights, Quantize):
        raise UsageError(f"weights must be Quantize(...), such as Quantize(bits=8), got {weights!r}")
    if not isinstance(activations, Observe):
        raise UsageError(f"activations must be Observe(...), such as Observe(bits=8), got {activations!r}")
    if grids is not None and not isinstance(grids, Mapping):
        raise UsageError(f"grids must be a mapping from names of layers to grids, got {type(grids).__name__}")
    for name, grid in (grids or {}).items():  # type: ignore[attr-defined]
        if not isinstance(grid, Affine):
            raise UsageError(f"grids: that of {name!r} must be an Affine, as a quantizer's grid() gives, got {grid!r}")
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise UsageError(f"{flag} must be True or False, got {value!r}")


def _patterns(keep: object) -> tuple[str, ...]:
    found = (keep,) if isinstance(keep, str) else keep
    if not isinstance(found, Collection) or not all(isinstance(each, str) for each in found):
        raise UsageError(f"keep must be one pattern of names of layers, or several, got {keep!r}")
    return tuple(found)


def _check(model: nn.Module, calibration: Any, static: bool, weights: Quantize, feedback: bool) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"quantize_int8 takes an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, (Simulation, QuantizedInputs, Signs)):
            place = name.partition(".parametrizations.")[0].removesuffix(".input_quantizer")
            raise UsageError(f"{place}: is being trained in a session; finalize the session first")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        check_made(tensor, name)
    check(weights)
    if calibration is None and (static or feedback):
        what = "feedback" if feedback else "static=True"
        raise UsageError(f"{what} needs calibration: batches of samples for the model")
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            raise UsageError(
                f"{name} is {tensor.dtype} on {tensor.device}; integer layers are made from float32 on the CPU: give "
                "model.float().cpu()"
            )


def _prepared(model: nn.Module, samples: list[Any] | None, seed: int) -> _Source:
    if samples is None:
        own = copy.deepcopy(model).eval()
        return _Source(own, {}, own, bias_of(own))
    found = fold_batch_norms(model, samples, seed=seed)
    work = copy.deepcopy(found.model)
    merged = {n: layer for n, layer in found.folded.items() if isinstance(work.get_submodule(layer), _CONVERTED)}
    merge(work, merged)
    try:
        expected, got = (_output(net, samples[0], seed) for net in (found.model, work))
        same = expected.shape == got.shape and _close(expected, got)
    except CalibrationError:
        same = False
    # A class that does not use the bias of a convolution, or asks for attributes of its batch norms.
    if not same:
        return _Source(found.model, {}, copy.deepcopy(found.model), found.bias_of)
    return _Source(found.model, merged, work, found.bias_of)


def _candidates(model: nn.Module, keep: Sequence[str], static: bool) -> tuple[list[str], dict[str, str]]:
    """Names of layers that may become integers, each module once; and of modules with weights that do not, and why."""
    names = dict(model.named_modules())
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"keep: the pattern {pattern!r} matches none of the model's {len(names)} modules")
    inside = {id(m) for a in names.values() if isinstance(a, nn.MultiheadAttention) for m in a.modules() if m is not a}
    inside |= {id(m) for a in names.values() if isinstance(a, parametrize.ParametrizationList) for m in a.modules()}
    layers, floats = [], {}
    for name, module in names.items():
        weighted = isinstance(module, _CONVERTED) or any(p.dim() >= 2 for p in module.parameters(recurse=False))
        if id(module) in inside or not weighted:
            continue
        if any(fnmatchcase(name, pattern) for pattern in keep):
            floats[name] = "keep names it"
        elif isinstance(module, nn.LSTM):
            if (reason := _lstm_reason(module, static)) is not None:
                floats[name] = reason
        elif not isinstance(module, _CONVERTED):
            floats[name] = f"{class_name(module)} has no product in integers here"
        elif parametrize.is_parametrized(module):
            floats[name] = "its weight is parametrized; make it a parameter again first"
        elif module._forward_hooks or module._forward_pre_hooks:
            floats[name] = "it has hooks of its own"
        else:
            layers.append(name)
    return layers, floats


def _lstm_reason(module: nn.LSTM, static: bool) -> str | None:
    if static:
        return "LSTMs have dynamic grids: static=False"
    return "an LSTM with projections" if module.proj_size else None


def _plan(
    source: _Source, layers: list[str], seen: Mapping[str, Inputs], static: bool, bits: int, floats: dict[str, str]
) -> Plan:
    """Which layers become integers; `floats` gets the reasons of the others."""
    found: dict[str, Layer] = {}
    for name in layers:
        if source.work is source.folded:  # no samples
            form: Form | str = dynamic_form(source.work.get_submodule(name))
        else:
            form = seen[name].form if name in seen else "no sample reached it"
        if isinstance(form, str):
            floats[name] = form
            continue
        found[name] = Layer(form.window, seen[name].observer.grid() if static else None)
    recurrent = [n for n, m in source.work.named_modules() if isinstance(m, nn.LSTM) and n not in floats]
    return Plan(bits, found, tuple(recurrent), source.merged)


def _weights(
    source: _Source, plan: Plan, config: Quantize, bits: int, statistics: Mapping[str, LayerStatistics] | None
) -> dict[str, Uniform]:
    """Codes by the parameter's name."""
    found = {}
    for name, layer in plan.layers.items():
        key = f"{name}.weight" if name else "weight"
        weight = source.work.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        highest = (1 << bits) - 1 if layer.grid is None else layer.grid.high
        try:
            found[key] = integer_weight(weight, config, highest, (statistics or {}).get(key))
        except NonFiniteError as error:
            raise CalibrationError(f"{key}: {error}") from error
    for name in plan.recurrent:
        for local, parameter in source.work.get_submodule(name).named_parameters():
            if "weight" in local:
                key = f"{name}.{local}" if name else local
                found[key] = integer_weight(parameter, config, (1 << bits) - 1)
    return found


@torch.no_grad()
def _correct(source: _Source, plan: Plan, codes: Mapping[str, Uniform], seen: Mapping[str, Inputs]) -> None:
    """Adds (W - Wq) E[x] to the biases, as far as the original class has a place for them."""
    parameters = dict(source.folded.named_parameters())
    for name, layer in plan.layers.items():
        key = f"{name}.weight" if name else "weight"
        if key not in source.bias_of or name not in seen:
            continue
        weight = source.work.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        error = (
            (weight.double() - codes[key].dequantize().double()).flatten(2).sum(2)
            if weight.dim() > 2
            else (weight.double() - codes[key].dequantize().double())
        )
        groups = 1 if layer.window is None else layer.window.groups
        means = seen[name].means().reshape(groups, -1)
        shift = torch.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), means).reshape(-1)
        bias = parameters[source.bias_of[key]]
        bias.add_(shift.to(bias.dtype))


def _linked(source: _Source, plan: Plan, batch: Any, seed: int) -> Plan:
    """Activations into the layers before them, and codes from layer to layer."""
    chains = find_chains(source.work, plan.layers, batch, seed)
    layers = {
        name: replace(layer, limits=chains.of[name].limits) if name in chains.of else layer
        for name, layer in plan.layers.items()
    }
    linked = replace(plan, layers=layers, activations=tuple(sorted(chains.activations)))
    following = {name: own.following for name, own in chains.of.items() if own.following is not None}
    return chained(linked, following)


def _assembled(
    source: _Source, plan: Plan, codes: Mapping[str, Uniform], floats: Mapping[str, str], samples: list[Any] | None,
    original: int, seed: int,
) -> Integers:  # fmt: skip
    state = {name: tensor.detach().clone() for name, tensor in source.folded.state_dict().items()}
    model = assemble(copy.deepcopy(source.folded), plan, codes)
    if samples is not None:
        try:
            _output(model, samples[0], seed)
        except (CalibrationError, MismatchError) as error:
            raise CalibrationError(
                f"the network does not run with integer layers ({error}); keep those whose attributes it uses"
            ) from error
    return Integers(model, plan, codes, floats, state, original)


def _output(model: nn.Module, batch: Any, seed: int) -> Tensor:
    with torch.no_grad(), untouched(model, seed):
        return main_output(call(model, batch, 0)).float()


def _close(expected: Tensor, got: Tensor) -> bool:
    """Up to rounding. NaN and Inf are told of where layers take them in."""
    spread = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()) if expected.numel() else 0.0
    return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * spread, equal_nan=True)
