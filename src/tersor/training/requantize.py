"""New codes on the grid of a quantized weight: by error feedback, and through the trellis where codes are its paths.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tersor.calibration.damping import factorize
from tersor.calibration.feedback import as_matrices, reconstruct
from tersor.calibration.layout import Layout
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.tensors import CompressedTensor, Uniform


def requantized(
    weight: Tensor, fitted: CompressedTensor, statistics: LayerStatistics, trellis: Trellis | None
) -> CompressedTensor:
    """`fitted` with codes for `weight`; its steps or levels and its mask stay.

    weight:  of the statistics' shape, finite.
    trellis: in whose paths the codes of a `Uniform` lie (`trellis_of`); None for plain error feedback.
    Raises UsageError for representations that are no scalar grid.
    """
    if trellis is None or not isinstance(fitted, Uniform):
        return reconstruct(weight, fitted, statistics)
    layout = statistics.layout
    mask = None if fitted.mask is None else layout.matrices(fitted.mask)
    steps = _row_steps(fitted, layout)
    codes, _ = trellis_codes(as_matrices(weight, statistics), steps, factorize(statistics), trellis, mask=mask)
    found = layout.weight(codes, fitted.shape).contiguous()
    low, high = (int(found.min()), int(found.max())) if found.numel() else (0, 0)
    bits = max(max(high, -low - 1).bit_length() + 1, 1)
    return dataclasses.replace(fitted, bits=bits, codes=found.to(torch.int8 if bits <= 8 else torch.int16))


def trellis_of(fitted: CompressedTensor, survivors: int = 4) -> Trellis | None:
    """The trellis in whose paths a weight's codes lie; None if they are any integers."""
    if not isinstance(fitted, Uniform) or fitted.trellis == 1:
        return None
    return Trellis(fitted.trellis, survivors)


def _row_steps(fitted: Uniform, layout: Layout) -> Tensor:
    """float32 (G, R): the step of each row."""
    groups, rows, _ = layout.shape(fitted.shape)
    return fitted.scale.reshape(-1).expand(groups * rows).reshape(groups, rows)
