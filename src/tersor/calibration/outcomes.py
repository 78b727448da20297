"""What a weight becomes at a few sizes: how many bits it takes, and how far its outputs move.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.calibration.damping import DAMPING, Factor, factorize
from tersor.calibration.feedback import as_matrices, output_error, reconstruct
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.steps import loss_steps, snap
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.quantization import Binarize, Palettize, RepresentationConfig, Ternarize

BITS = (8, 6, 5, 4, 3, 2)
LEVELS: dict[str, RepresentationConfig] = {
    "ternary": Ternarize(),
    "binary": Binarize(),
    "16 values": Palettize(bits=4),
}
NAMES = (*(f"{bits} bits" for bits in BITS), *LEVELS)

_ROW_EXPONENT = 0.25
"""How far rows have steps of their own (`loss_steps`), as calibrated compression has them."""

_PARAMETER_BITS = 16
"""Of a step, scale or centroid in a file, about."""


@dataclass(frozen=True)
class Outcome:
    """A weight in one of its candidate representations.

    name:   of the representation, one of `NAMES`.
    weight: of the weight's shape, float32, what it dequantizes to.
    bits:   of the whole weight in a file, about: its codes, coded by their frequencies, and its parameters.
    error:  E|(W - Wq) x|^2 over E|W x|^2, outputs summed.
    loss:   predicted, in nats a sample: sum over rows of G_r e_r / 2.
    """

    name: str
    weight: Tensor
    bits: float
    error: float
    loss: float


def outcomes(
    weight: Tensor,
    statistics: Sequence[LayerStatistics],
    judges: Sequence[LayerStatistics] | None = None,
    damping: float = DAMPING,
) -> Iterator[Outcome]:
    """The candidates of a weight, finest first.

    "b bits" are multiples of row steps that the loss asks for (`loss_steps`), found by error feedback, whose codes take
    about b bits a weight when coded; the others are fitted as their configs do, and then improved by error feedback.

    weight:     of the statistics' shape.
    statistics: one for each way in which the network uses the weight (an embedding may be the output layer, too); the
                first decides the codes, the loss is that of all of them.
    judges:     the same of other samples, to take errors and losses from: codes suit the samples they were found by
                better than others. None for the same samples.
    damping:    of the H that codes are found by.
    """
    judges = judges or statistics
    weight, first = weight.detach().cpu(), statistics[0]
    shown = first.in_rows()
    factor = factorize(shown, damping)
    for bits in BITS:
        quantized, size = _uniform(as_matrices(weight, shown), shown, factor, bits)
        tensor = shown.layout.weight(quantized, shown.shape).float()
        yield _outcome(f"{bits} bits", weight, tensor, size, judges)
    for name, config in LEVELS.items():
        fitted = reconstruct(weight, config.fit(weight.float()), shown, damping)
        size = entropy(fitted.per_weight) + _PARAMETER_BITS * (16 if name == "16 values" else weight.shape[0])
        yield _outcome(name, weight, fitted.dequantize(), size, judges)


def entropy(codes: Tensor) -> float:
    """Bits of all codes at their frequencies: n times the entropy of the distribution of their values."""
    if not codes.numel():
        return 0.0
    flat = codes.reshape(-1).to(torch.int64)
    counts = torch.bincount(flat - flat.min()).double()
    counts = counts[counts > 0]
    return float(-(counts * (counts / codes.numel()).log2()).sum())


def _uniform(matrices: Tensor, statistics: LayerStatistics, factor: Factor, bits: int) -> tuple[Tensor, float]:
    """(float64 (G, R, N), bits of all): steps as the loss asks for, scaled until codes take `bits` a weight."""
    # Outputs that are columns of what is stored cannot have a step each.
    exponent = 0.0 if statistics.layout.transposed else _ROW_EXPONENT
    wanted = loss_steps(statistics.row_weights(), factor, 1.0, exponent)
    steps = snap(wanted * _scale(matrices.abs().mean(2) / wanted, bits))
    values = steps.values()
    codes, _ = trellis_codes(matrices, values, factor, Trellis(states=1, survivors=1))
    size = float(_laplace_bits(codes.double().abs().mean(2)).sum()) * matrices.shape[2]
    return codes.double() * values.double()[..., None], size + entropy(steps.multipliers) + _PARAMETER_BITS


def _laplace_bits(magnitudes: Tensor) -> Tensor:
    """Bits a weight of integers by their mean magnitude: the entropy of a Laplace distribution, about.

    Few weights have too low an empirical entropy: n of them take log2 n bits at most.
    """
    return (1 + 2 * math.e * magnitudes).log2()


def _scale(magnitudes: Tensor, bits: int) -> float:
    """The factor of the steps at which rows whose weights are of `magnitudes` steps take `bits` a weight."""
    largest = float(magnitudes.max()) if magnitudes.numel() else 0.0
    if not largest > 0:
        return 1.0
    low, high = math.log2(largest) - 40, math.log2(largest) + 10
    for _ in range(20):
        middle = (low + high) / 2
        finer = float(_laplace_bits(magnitudes / 2.0**middle).mean()) > bits
        low, high = (middle, high) if finer else (low, middle)
    return 2.0**high


def _outcome(name: str, weight: Tensor, quantized: Tensor, bits: float, uses: Sequence[LayerStatistics]) -> Outcome:
    errors = [output_error(weight, quantized, use) for use in uses]
    loss = sum(float((use.row_weights() * error).sum()) / 2 for use, error in zip(uses, errors, strict=True))
    nothing = torch.zeros_like(weight)
    power = sum(float(output_error(weight, nothing, use).sum()) for use in uses)
    moved = sum(float(error.sum()) for error in errors)
    return Outcome(name, quantized, bits, moved / power if power > 0 else 0.0, loss)
