"""A weight as trellis codes times row steps: a `Uniform` that knows its trellis and its multipliers.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.calibration.damping import Factor
from tersor.calibration.feedback import as_matrices
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.steps import RowSteps
from tersor.calibration.trellis import Trellis, trellis_codes
from tersor.errors import UsageError
from tersor.tensors import Uniform


def dependent_uniform(
    weight: Tensor,
    statistics: LayerStatistics,
    factor: Factor,
    steps: RowSteps,
    trellis: Trellis | None = None,
    *,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    threads: int | None = 1,
) -> Uniform:
    """`weight` on the grid `steps`, codes by `trellis_codes`; int8 codes where 8 bits hold them, else int16.

    weight: of the statistics' shape, or a target for it as (G, R, N). mask: bool of the statistics' shape.
    dtype:  of what the result dequantizes to.
    The codes of row r of group g, in the order of N, are the path. Where outputs are no storage rows (transposed
    layouts) files know no paths, and columns have no steps of their own: all rows must have one step, and the trellis
    one state, which is the default there; UsageError otherwise.
    """
    layout, shape = statistics.layout, statistics.shape
    trellis = trellis or Trellis(states=1 if layout.transposed else 8)
    values, multipliers = steps.values(), steps.multipliers.reshape(-1, 1).contiguous()
    one_step = not bool(multipliers.any())
    if layout.transposed and trellis.states > 1:
        raise UsageError(
            f"a weight of shape {tuple(shape)} stores its outputs as columns, along which there is no trellis; "
            "use Trellis(states=1) and a step that suits it"
        )
    if layout.transposed and not one_step:
        raise UsageError(
            f"a weight of shape {tuple(shape)} stores its outputs as columns, which cannot have a step each; "
            "give all rows one step (`loss_steps` with exponent=0)"
        )
    kept = None if mask is None else layout.matrices(mask)
    matrices, _ = trellis_codes(as_matrices(weight, statistics), values, factor, trellis, mask=kept, threads=threads)
    codes = layout.weight(matrices, shape).contiguous()
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    bits = max(max(high, -low - 1).bit_length() + 1, 1)
    return Uniform(
        shape,
        dtype,
        mask,
        bits,
        codes.to(torch.int8 if bits <= 8 else torch.int16),
        values.reshape(-1, 1)[:1] if one_step else values.reshape(-1, 1),
        None,
        0 if one_step else shape[1:].numel(),
        trellis=trellis.states,
        base=torch.full((1, 1), steps.base, dtype=torch.bfloat16),
        multipliers=None if one_step else multipliers,
    )
