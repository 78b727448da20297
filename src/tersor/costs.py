"""What a network costs: parameters, non-zeros, multiply-accumulates, bytes, seconds."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from tersor.calibration.guard import untouched
from tersor.errors import CalibrationError, TersorError, UsageError
from tersor.interop.raw import check_made

_WARM_UP = 5
"""Calls before the clock counts: allocators, caches and kernels settle."""


@dataclass(frozen=True)
class Costs:
    """What one network costs. None where nothing was measured.

    parameters: numbers in all parameters, tied ones once; where a parametrization computes a weight, the weight's.
    nonzeros:   how many of them are not zero.
    macs:       multiply-accumulates of one call with the example inputs: give them a batch of one for those of one
                sample. Zeros count: a dense kernel multiplies by them.
    bytes:      of the .tsr file that keeps every value, exactly.
    latency:    seconds of one call with the example inputs: the median of several.
    """

    parameters: int
    nonzeros: int
    macs: int | None = None
    bytes: int | None = None
    latency: float | None = None

    @property
    def density(self) -> float:
        """Share of the parameters that is not zero; 1 where there are none."""
        return self.nonzeros / self.parameters if self.parameters else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types."""
        return {**asdict(self), "density": self.density}


def costs(
    model: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    latency: bool = False,
    runs: int = 30,
) -> Costs:
    """The costs of `model`, which is left as it was, in evaluation mode.

    args, kwargs: what one call takes; both None leaves macs and latency None.
    latency: whether the clock is asked, too: `runs` calls after 5 to warm up, on this machine and its threads.
    Raises CalibrationError, with what the model raised, if it rejects the inputs; UsageError for latency without
    inputs.
    """
    given = args is not None or kwargs is not None
    if latency and not given:
        raise UsageError("costs: latency needs example inputs to call the model with")
    weights = [tensor.detach() for _, tensor in effective_parameters(model)]
    return Costs(
        parameters=sum(tensor.numel() for tensor in weights),
        nonzeros=sum(int(torch.count_nonzero(tensor)) for tensor in weights),
        macs=count_macs(model, args or (), kwargs) if given else None,
        latency=measure_latency(model, args or (), kwargs, runs=runs) if latency else None,
    )


def effective_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each parameter as the network computes with it, tied ones once, under their first name.

    A parameter that `torch.nn.utils.parametrize` computes is what it computes, under the name that it has without.
    """
    seen: set[int] = set()
    for prefix, module, name, stored in parameter_sites(model):
        if id(stored) not in seen:
            seen.add(id(stored))
            yield f"{prefix}{name}", getattr(module, name)


def parameter_sites(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(prefix with its dot, module, attribute, what is stored) of each place of a parameter; ties at each of them.

    What is stored is the parameter itself, or the first original of a parametrization. UnsupportedTypeError for tensors
    of lazy modules that were not called yet.
    """
    inner: set[int] = set()
    for path, module in model.named_modules():
        if id(module) in inner:
            continue
        prefix = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                check_made(tensor, f"{prefix}{name}")
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix, module, name, parameter
        if is_parametrized(module):
            held = module.parametrizations
            assert isinstance(held, nn.ModuleDict)
            inner.update(id(part) for part in held.modules())
            for name, chain in held.items():
                originals = list(chain._parameters.values())
                if originals and originals[0] is not None:
                    yield prefix, module, name, originals[0]


def count_macs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> int:
    """Multiply-accumulates of one call: the sum of `macs_by_module`."""
    return macs_by_module(model, args, kwargs)[""]


def macs_by_module(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Multiply-accumulates of one call in each module that has some, those of its submodules included; "" for all.

    Of matrix products, convolutions, attention and recurrent layers. What works element by element (activations,
    norms, pooling) is not counted. Fused kernels that hide their products from the counter (attention, recurrent
    layers) are taken apart for the time. CalibrationError as `costs`.
    """
    # oneDNN's recurrent kernels are opaque; the switch itself warns on machines without Intel GPUs.
    with untouched(model, 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            counter = FlopCounterMode(display=False)
            with torch.no_grad(), counter:
                _call(model, args, kwargs)
    prefix = f"{type(model).__name__}."
    found = {"": int(counter.get_total_flops()) // 2}
    for name, counts in counter.get_flop_counts().items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = sum(counts.values()) // 2
    return found


def measure_latency(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, runs: int = 30
) -> float:
    """Seconds of one call: the median of `runs` calls. UsageError for less than one; CalibrationError as `costs`."""
    if runs < 1:
        raise UsageError(f"latency: runs must be at least 1, got {runs!r}")
    times = []
    fused = torch.backends.mha.get_fastpath_enabled()
    with untouched(model, 0):
        torch.backends.mha.set_fastpath_enabled(fused)
        with torch.inference_mode():
            for number in range(_WARM_UP + runs):
                _synchronize(model)
                begin = time.perf_counter()
                _call(model, args, kwargs)
                _synchronize(model)
                if number >= _WARM_UP:
                    times.append(time.perf_counter() - begin)
    found = statistics.median(times)
    assert math.isfinite(found)
    return found


def _synchronize(model: nn.Module) -> None:
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type == "cuda":
        torch.cuda.synchronize(parameter.device)


def _call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    try:
        return model(*args, **(kwargs or {}))
    except TersorError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"example inputs: the model raised {type(error).__name__}: {error}; give what one call takes"
        ) from error
