"""Weights in 8-bit integers that every kernel sums exactly.

Kernels without VNNI multiply two neighbouring inputs (2 i and 2 i + 1 of the input channels) and add the products in 16
bits. A row whose codes allow a pair beyond that gets larger steps, until none is: about a third larger for normal
weights, which is less than one bit fewer for all.

Legend: O outputs (rows), I inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.calibration import LayerStatistics, reconstruct
from tersor.errors import UsageError
from tersor.quantization import Quantize
from tersor.quantization.uniform import encode
from tersor.tensors import Uniform

_LIMIT = (1 << 15) - 1
_ROUNDS = 20


def check(config: Quantize) -> None:
    """UsageError for grids that integer layers do not compute with."""
    if config.bits > 8 or not config.symmetric or config.granularity == "group":
        raise UsageError(
            "weights: integer layers take symmetric grids of at most 8 bits, one step a channel or a tensor, got "
            f"{config!r}"
        )


def integer_weight(
    weight: Tensor, config: Quantize, highest: int, statistics: LayerStatistics | None = None
) -> Uniform:
    """`weight`, (O, I, *kernel) of floats, as codes of which no pair of products overflows.

    highest: the largest code of the inputs. statistics: of the inputs, for error feedback; None rounds to the nearest.
    Steps are one a row, also where `config` asks for one a tensor. Raises as `Quantize.fit`.
    """
    weight = weight.detach().float()
    fitted = config.fit(weight)
    steps = fitted.scale.expand(weight.shape[0], 1).contiguous()
    for _ in range(_ROUNDS):
        found = encode(weight, None, config.bits, steps.numpy(), None, weight[0].numel())
        if statistics is not None:
            improved = reconstruct(weight, found, statistics)
            assert isinstance(improved, Uniform)
            found = improved
        excess = pair_excess(found.codes, highest)
        if not bool((excess > 1).any()):
            return found
        # At least one code, that a step which does not move what is rounded cannot last.
        steps = steps * torch.where(excess > 1, excess * 1.005, torch.ones_like(excess))[:, None]
    return encode(weight, None, min(config.bits, 7), (steps * 2).numpy(), None, weight[0].numel())


def pair_excess(codes: Tensor, highest: int) -> Tensor:
    """float32 (O,): by how much the worst pair of a row, codes int8 (O, I, *kernel), exceeds 16 bits; 1 is allowed."""
    inputs = codes.shape[1] // 2 * 2
    pairs = codes[:, :inputs].float().unflatten(1, (-1, 2)) if inputs else torch.zeros(len(codes), 1, 2)
    together = (pairs.clamp(min=0).sum(2), (-pairs).clamp(min=0).sum(2))
    worst = torch.maximum(*together).flatten(1).amax(1)
    return worst * highest / _LIMIT
