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
from tersor.calibration.trellis import Trellis, to_indices, trellis_codes
from tersor.errors import MismatchError
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


def trellis_of(fitted: CompressedTensor, layout: Layout, survivors: int = 4) -> Trellis | None:
    """The trellis in whose paths a weight's codes lie: of 8 states or 4; None if they are any integers.

    Codes of zero everywhere are a path of each, and are taken for one of 8 states.
    """
    if not isinstance(fitted, Uniform) or fitted.scale.shape[1] > 1 or fitted.zero is not None:
        return None
    if fitted.offset is not None or fitted.signed_zero or (layout.transposed and fitted.scale.shape[0] > 1):
        return None
    paths = layout.matrices(fitted.codes).flatten(0, 1).numpy()
    mask = None if fitted.mask is None else layout.matrices(fitted.mask).flatten(0, 1).numpy()
    for states in (8, 4):
        try:
            to_indices(paths, states, mask)
        except MismatchError:
            continue
        return Trellis(states, survivors)
    return None


def _row_steps(fitted: Uniform, layout: Layout) -> Tensor:
    """float32 (G, R): the step of each row."""
    groups, rows, _ = layout.shape(fitted.shape)
    return fitted.scale.reshape(-1).expand(groups * rows).reshape(groups, rows)
