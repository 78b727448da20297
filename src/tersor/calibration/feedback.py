"""Error feedback: each weight's rounding error is made good by the weights of the row that are still to come.

OBS (Hassibi and Stork 1993) with the quantization order of the columns, as in GPTQ (Frantar et al. 2023, section 3).

Legend: G groups, R rows of a group, N weights of a row, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.calibration.damping import DAMPING, Factor, factorize
from tersor.calibration.grids import Grid, grid_of, with_codes
from tersor.calibration.layout import Layout
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import MismatchError
from tersor.tensors import CompressedTensor

_BLOCK = 64
"""Columns whose errors reach the rest of the row together, in one matrix product."""


def feedback_codes(weight: Tensor, factor: Factor, grid: Grid) -> Tensor:
    """Codes int32 (G, R, N) such that (w - q) H (w - q)^T is small in every row. weight: (G, R, N), finite.

    For j = 0, 1, ...: q_j = nearest of u_j; u_k -= (u_j - q_j) V_jk for k > j, starting from u = w.
    """
    u = weight.double().clone()
    codes = torch.empty(u.shape, dtype=torch.int32)
    length = u.shape[2]
    for begin in range(0, length, _BLOCK):
        end = min(begin + _BLOCK, length)
        errors = torch.empty(*u.shape[:2], end - begin, dtype=torch.float64)
        for j in range(begin, end):
            codes[..., j], rounded = grid.round(u[..., j], j)
            error = u[..., j] - rounded
            errors[..., j - begin] = error
            if factor.feedback is not None:
                u[..., j + 1 : end] -= error[..., None] * factor.feedback[:, None, j, j + 1 : end]
        if factor.feedback is not None and end < length:
            u[..., end:] -= errors @ factor.feedback[:, begin:end, end:]
    return codes


def reconstruct(
    weight: Tensor, fitted: CompressedTensor, statistics: LayerStatistics, damping: float = DAMPING
) -> CompressedTensor:
    """`fitted` with new codes for `weight`, found by error feedback; its steps, levels and mask stay.

    weight: of the statistics' shape, finite; or a target for it (`PairStatistics.target`), as (G, R, N).
    Raises MismatchError if shapes differ, UsageError for representations that are no scalar grid.
    """
    layout = statistics.layout
    if fitted.shape != statistics.shape:
        raise MismatchError(
            f"the statistics are of a weight of shape {tuple(statistics.shape)}, got {tuple(fitted.shape)}"
        )
    matrices = as_matrices(weight, statistics)
    codes = feedback_codes(matrices, factorize(statistics, damping), grid_of(fitted, layout))
    return with_codes(fitted, codes, layout)


def output_error(weight: Tensor, quantized: Tensor, statistics: LayerStatistics) -> Tensor:
    """E|(W - Wq) x|^2 of each row, summed over a sample's positions: float64 (G, R).

    Both weights have the statistics' shape, or are (G, R, N).
    """
    error = as_matrices(weight, statistics) - as_matrices(quantized, statistics)
    moment = statistics.moment.double()
    fed = error * moment[:, None] if statistics.layout.diagonal else error @ moment
    return (fed * error).sum(2) / max(statistics.samples, 1)


def output_shift(weight: Tensor, quantized: Tensor, statistics: LayerStatistics) -> Tensor:
    """E[(W - Wq) x], float64 (O,): what to add to the bias so that the mean output stays (Nagel et al. 2019, 4.2)."""
    error = as_matrices(weight, statistics) - as_matrices(quantized, statistics)
    return (error @ statistics.mean_input()[..., None]).reshape(-1)


def as_matrices(weight: Tensor, statistics: LayerStatistics) -> Tensor:
    """`weight`, of the statistics' shape or (G, R, N) already, as float64 (G, R, N). Raises MismatchError."""
    layout: Layout = statistics.layout
    shape = layout.shape(statistics.shape)
    values = weight.detach().cpu().double()
    if values.shape == statistics.shape:
        return layout.matrices(values)
    if tuple(values.shape) == shape:
        return values
    raise MismatchError(
        f"the statistics are of a weight of shape {tuple(statistics.shape)}, or {shape} as matrices, got "
        f"{tuple(weight.shape)}"
    )
