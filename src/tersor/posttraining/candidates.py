"""What a layer may become at a multiplier, and which of that costs least: loss + rate * bits.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tersor.calibration import Factor, LayerStatistics, factorize, output_error, reconstruct
from tersor.calibration.feedback import as_matrices
from tersor.posttraining.layer import quantize_layer
from tersor.posttraining.options import Calibrate
from tersor.quantization import Binarize, Lossless, Palettize, Quantize, RepresentationConfig, Ternarize
from tersor.tensors import CompressedTensor

_DENSITIES = (0.5, 0.25, 0.12)
_BOOKS = (2, 3, 4, 5, 6)  # bits

Size = Callable[[CompressedTensor], int]
"""Bytes that a tensor takes in a file."""


def best_candidate(
    weight: Tensor,
    target: Tensor,
    statistics: LayerStatistics,
    weights: Tensor,
    rate: float,
    options: Calibrate,
    size: Size,
    threads: int | None = 1,
) -> CompressedTensor:
    """The candidate of least sum_r G_r e_r / 2 + rate * bits, e_r its `output_error` against `target`.

    Arguments as `quantize_layer`; weights are the G_r.
    """

    def cost(tensor: CompressedTensor) -> float:
        values = tensor.dequantize()
        away = output_error(target, values, statistics)
        return float((weights * away).sum()) / 2 + rate * 8 * size(tensor)

    found = list(candidates(weight, target, statistics, weights, rate, options, threads))
    return found[0] if len(found) == 1 else min(found, key=cost)


def candidates(
    weight: Tensor,
    target: Tensor,
    statistics: LayerStatistics,
    weights: Tensor,
    rate: float,
    options: Calibrate,
    threads: int | None = 1,
) -> Iterator[CompressedTensor]:
    """`weight` in each technique of `options`, with codes found by error feedback."""
    for technique in options.techniques:
        if technique == "uniform":
            yield quantize_layer(weight, target, statistics, weights, rate, options, threads=threads)
        elif technique == "sparse":
            factor = factorize(statistics, options.damping)
            for density in _DENSITIES:
                mask = obs_mask(target, statistics, factor, weights, density)
                yield quantize_layer(weight, target, statistics, weights, rate, options, mask=mask, threads=threads)
        elif technique == "lossless":
            yield Lossless().fit(weight)
        else:
            values = statistics.layout.weight(as_matrices(target, statistics), statistics.shape).to(weight.dtype)
            for representation in _representations(technique):
                fitted = representation.fit(values, None)
                yield reconstruct(target, fitted, statistics, options.damping)


def obs_mask(target: Tensor, statistics: LayerStatistics, factor: Factor, weights: Tensor, density: float) -> Tensor:
    """bool of the weight's shape: the `density` of its entries whose loss would cost most.

    Removing w_j and making it good with the rest of the row costs G_r w_j^2 / (2 U_jj^2) (Hassibi and Stork 1993).
    """
    saliency = as_matrices(target, statistics).square() * weights[..., None] * factor.precision()[:, None]
    kept = max(round(density * saliency.numel()), 1)
    chosen = torch.zeros(saliency.numel(), dtype=torch.bool)
    chosen[saliency.reshape(-1).topk(kept).indices] = True
    return statistics.layout.weight(chosen.reshape(saliency.shape), statistics.shape)


def _representations(technique: str) -> list[RepresentationConfig]:
    if technique == "codebook":
        return [Palettize(bits=bits) for bits in _BOOKS]
    return [{"int8": Quantize(bits=8), "ternary": Ternarize(), "binary": Binarize()}[technique]]
