"""Tensors of what a network returns, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from tersor.errors import UsageError

TOLERANCE = 1e-4
"""How far a tensor of float32 may be from another one, relative to that one's largest value, to count as the same."""

_ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-8}


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of tuples, lists, mappings and dataclasses, nested, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for value in output.values() for tensor in tensors_of(value)]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in tensors_of(value)]
    if is_dataclass(output) and not isinstance(output, type):
        return [tensor for field in fields(output) for tensor in tensors_of(getattr(output, field.name))]
    return []


def check_tolerance(tolerance: object) -> None:
    """UsageError unless `tolerance` is what `difference` takes: None, or a number that is not negative."""
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and tolerance >= 0):  # type: ignore[operator]
        raise UsageError(f"tolerance must be a number from 0 upwards, or None, got {tolerance!r}")


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float | None = None) -> str | None:
    """How outputs differ, in words; None if they are the same to the tolerance.

    tolerance: largest deviation, see `deviation`; None for 1e-4 in float32 (less in float64, more below).
    """
    if len(found) != len(wanted):
        return f"it gives {len(found)} tensors, not {len(wanted)}"
    for position, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if one.shape != other.shape:
            return f"output {position} has the shape {tuple(one.shape)}, not {tuple(other.shape)}"
        limit = _ROUNDING.get(other.dtype, TOLERANCE) if tolerance is None else tolerance
        away = deviation(one, other)
        if not away <= limit:
            return f"output {position} is {away:.2g} of its largest value away, {limit:g} is allowed"
    return None


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest |found - wanted|, relative to the largest |wanted| (absolute where that is 0).

    Infinities and NaN count as equal where they are the same in both; else the deviation is infinite.
    """
    if found.numel() == 0:
        return 0.0
    if not wanted.dtype.is_floating_point and not wanted.dtype.is_complex:
        return float((found != wanted).any())
    one, other = found.detach().cpu().double(), wanted.detach().cpu().double()
    finite = other.isfinite()
    if not bool((finite == one.isfinite()).all()):
        return float("inf")
    if not bool(finite.all()):
        odd, same = ~finite, one == other
        if not bool((same[odd] | (one.isnan() & other.isnan())[odd]).all()):
            return float("inf")
        one, other = one[finite], other[finite]
        if one.numel() == 0:
            return 0.0
    largest = float(other.abs().max())
    away = float((one - other).abs().max())
    return away / largest if largest else away
