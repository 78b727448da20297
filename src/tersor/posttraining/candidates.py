"""What a layer may become at a multiplier, and which of that costs least: loss + rate * bits.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tersor.calibration import Factor, factorize, output_error, reconstruct
from tersor.calibration.feedback import as_matrices
from tersor.posttraining.layer import Layer, quantize_layer
from tersor.posttraining.options import Calibrate
from tersor.pruning.selection import largest
from tersor.quantization import Binarize, Lossless, Palettize, Quantize, RepresentationConfig, Ternarize
from tersor.tensors import CompressedTensor

_DENSITIES = (0.5, 0.25, 0.12)
_PRUNED = 0.9
"""A weight with fewer entries than this part that are not zero was pruned; chance leaves no exact zeros."""
_BOOKS = (2, 3, 4, 5, 6)  # bits

Size = Callable[[CompressedTensor], int]
"""Bytes that a tensor takes in a file."""


def best_candidate(
    layer: Layer, rate: float, options: Calibrate, size: Size, threads: int | None = 1
) -> CompressedTensor:
    """The candidate of least sum_r G_r e_r / 2 + rate * bits, e_r its `output_error` against the target."""

    def cost(tensor: CompressedTensor) -> float:
        away = output_error(layer.target, tensor.dequantize(), layer.statistics)
        return float((layer.rows * away).sum()) / 2 + rate * 8 * size(tensor)

    found = list(candidates(layer, rate, options, threads))
    return found[0] if len(found) == 1 else min(found, key=cost)


def candidates(layer: Layer, rate: float, options: Calibrate, threads: int | None = 1) -> Iterator[CompressedTensor]:
    """The layer in each technique of `options`, with codes found by error feedback. Pruned weights stay zero."""
    statistics, kept = layer.statistics, kept_mask(layer.weight)
    for technique in options.techniques:
        if technique == "uniform":
            yield quantize_layer(layer, rate, options, mask=kept, threads=threads)
        elif technique == "sparse":
            factor = factorize(statistics, options.damping)
            for density in _DENSITIES:
                mask = obs_mask(layer, factor, density)
                mask = mask if kept is None else mask & kept
                yield quantize_layer(layer, rate, options, mask=mask, threads=threads)
        elif technique == "lossless":
            yield Lossless().fit(layer.weight)
        else:
            values = statistics.layout.weight(as_matrices(layer.target, statistics), statistics.shape)
            for representation in _representations(technique):
                fitted = representation.fit(values.to(layer.weight.dtype), kept)
                yield reconstruct(layer.target, fitted, statistics, options.damping)


def kept_mask(weight: Tensor) -> Tensor | None:
    """bool of the weight's shape, False where it was pruned; None where few of its entries are zero, or all."""
    kept = weight.detach().cpu() != 0
    return kept if 0 < int(kept.sum()) <= _PRUNED * kept.numel() else None


def obs_mask(layer: Layer, factor: Factor, density: float) -> Tensor:
    """bool of the weight's shape: the `density` of its entries whose loss would cost most.

    Removing w_j and making it good with the rest of the row costs G_r w_j^2 / (2 U_jj^2) (Hassibi and Stork 1993).
    """
    statistics = layer.statistics
    saliency = as_matrices(layer.target, statistics).square() * layer.rows[..., None] * factor.precision()[:, None]
    kept = max(round(density * saliency.numel()), 1)
    chosen = torch.from_numpy(largest(saliency.reshape(1, -1).numpy(), kept))
    return statistics.layout.weight(chosen.reshape(saliency.shape), statistics.shape)


def _representations(technique: str) -> list[RepresentationConfig]:
    if technique == "codebook":
        return [Palettize(bits=bits) for bits in _BOOKS]
    return [{"int8": Quantize(bits=8), "ternary": Ternarize(), "binary": Binarize()}[technique]]
