"""Biases, the factors of norms and other tensors that multiply no inputs, rounded as coarsely as the loss allows.

To second order, an error d of a tensor costs d^T F d / 2 nats, F = E[g g^T] the Fisher matrix with g the gradient of
one sample's loss. Errors of rounding to a step D are independent, of variance D^2 / 12: the expected loss is
D^2 tr F / 24, and a bit less an entry quadruples it. Nothing else of F matters here.

Legend: n entries of a tensor, D its step, F its Fisher matrix.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.objectives import Objective, class_rows, default_objective, main_output
from tersor.calibration.samples import batches, call
from tersor.errors import CalibrationError, UsageError
from tersor.tensors import Uniform

_LARGEST = 32767
"""Magnitude of a code that 16 bits hold on both sides of zero."""


def vector_weights(
    model: nn.Module,
    samples: Iterable[Any],
    names: Collection[str],
    *,
    objective: Objective = default_objective,
    draws: int = 4,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """tr F of each named parameter: nats a sample, per squared unit of its entries. Half of it is what an error costs.

    One forward pass and `draws` backward passes a batch: with outputs projected at random the
    gradients of samples are independent and have mean zero, so that the squared length of a batch's gradient is on
    average the sum of those of its samples.

    names:     of parameters. What no sample reached, or is no float, has no entry in the result; nor have buffers,
               which have no gradients.
    objective: summed over samples, with gradients of mean zero over its own draws, as those of `objectives` are.
    limit:     predictions (samples, times tokens or pixels) to be satisfied with; whole batches are used.
    Raises UsageError for unknown names or no samples; CalibrationError where the model rejects a sample, or gradients
    are NaN or Inf. The model is not changed.
    """
    if draws < 1:
        raise UsageError(f"draws must be a positive number, got {draws!r}")
    present = {*model.state_dict(keep_vars=True), *(name for name, _ in model.named_parameters())}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise UsageError(f"names: the model has no tensor {unknown[0]!r}")
    wanted = {n: p for n, p in model.named_parameters(remove_duplicate=False) if n in names and p.is_floating_point()}
    sums = dict.fromkeys(wanted, 0.0)
    reached: set[str] = set()
    generator = torch.Generator().manual_seed(seed)
    seen = predictions = 0
    with untouched(model, seed), torch.enable_grad():
        for parameter in wanted.values():
            parameter.requires_grad_(True)
        for index, batch, size in batches(samples):
            output = call(model, batch, index)
            for draw in range(draws):
                loss = objective(output, generator)
                for name, square in _squares(loss, wanted, draw + 1 < draws).items():
                    sums[name] += square / draws
                    reached.add(name)
            seen += size
            value = main_output(output)
            predictions += class_rows(value).shape[0] if value.dim() >= 2 else size
            if limit is not None and predictions >= limit:
                break
    return {name: sums[name] / seen for name in wanted if name in reached}


def round_vectors(model: nn.Module, weights: Mapping[str, float], rate: float) -> dict[str, Uniform]:
    """The tensors named by `weights`, each on a grid of one step 2^k, at which a bit saves about `rate` nats.

    D = sqrt(12 rate n / (ln 2 tr F)), where the derivatives by log2 D of D^2 tr F / 24 and of `rate` n log2 D are the
    same (`loss_steps` in one dimension), and k the nearest integer to its logarithm; but D is at most the tensor's
    root mean square, and at least what 16 bits hold.
    Tensors whose entries are all the same, or not finite, or that lose more than `rate` for each bit they save on their
    floats, are left out: they are best kept as they are.

    model:   whose values are rounded; it is not changed. The network of the weights, or a later state of it.
    weights: tr F by name, from `vector_weights`. Where it is 0, the step is 2^-7 of the root mean square.
    rate:    nats per bit, positive.
    Raises UsageError for a bad rate, or a name that the model does not have.
    """
    if not rate > 0 or not math.isfinite(rate):
        raise UsageError(f"rate must be a positive number of nats per bit, got {rate!r}")
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **model.state_dict()}
    rounded = {}
    for name, weight in weights.items():
        if name not in tensors:
            raise UsageError(f"weights: the model has no tensor {name!r}")
        fitted = _rounded(tensors[name].detach().cpu(), weight, rate)
        if fitted is not None:
            rounded[name] = fitted
    return rounded


def vector_loss(weights: Mapping[str, float], rounded: Mapping[str, Uniform]) -> float:
    """The predicted loss of rounding, in nats a sample: sum of D^2 tr F / 24."""
    return sum(weights[name] * float(fitted.scale) ** 2 / 24 for name, fitted in rounded.items())


def _squares(loss: Tensor, wanted: Mapping[str, nn.Parameter], again: bool) -> dict[str, float]:
    """Squared length of the gradient of each parameter that the loss depends on."""
    if not loss.requires_grad:
        return {}
    gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, retain_graph=again)
    found = {}
    for name, gradient in zip(wanted, gradients, strict=True):
        if gradient is not None:
            found[name] = float(gradient.double().square().sum())
            if not math.isfinite(found[name]):
                raise CalibrationError(f"{name}: its gradient holds NaN or Inf; look at the samples")
    return found


def _rounded(values: Tensor, weight: float, rate: float) -> Uniform | None:
    exact = values.double()
    if not values.is_floating_point() or not values.numel() or not bool(torch.isfinite(exact).all()):
        return None
    if bool((exact == exact.reshape(-1)[0]).all()):
        return None
    # A tensor that is not all the same has a positive root mean square.
    rms, largest = float(exact.square().mean().sqrt()), float(exact.abs().max())
    step = rms / 128 if weight <= 0 else min(rms, math.sqrt(12 * rate * values.numel() / (math.log(2) * weight)))
    k = max(round(math.log2(step)), math.ceil(math.log2(largest / _LARGEST)), -126)
    codes = (exact / 2.0**k).round().to(torch.int32)
    extremes = int(codes.min()), int(codes.max())
    bits = max((~low if low < 0 else low).bit_length() + 1 for low in extremes)
    saved = 8 * values.element_size() - bits
    # More than the rate asks for where 16 bits do not hold the step that it does.
    if saved <= 0 or 4.0**k * weight / 24 > rate * values.numel() * saved:
        return None
    narrow = codes.to(torch.int8 if bits <= 8 else torch.int16)
    return Uniform(values.shape, values.dtype, None, max(bits, 2), narrow, torch.full((1, 1), 2.0**k), None, 0)
