"""Weights pruned so that a layer's outputs change least: removed weights are made good by those that stay.

SparseGPT (Frantar and Alistarh 2023): OBS (Hassibi and Stork 1993) with a fixed order of the columns, masks chosen
while the rows are gone through.

Legend: G groups, R rows of a group, N weights of a row (`calibration.layout`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tersor.calibration.damping import DAMPING, Factor, factorize
from tersor.calibration.feedback import as_matrices
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import CalibrationError, UsageError
from tersor.pruning.granularity import checked, mask_of
from tersor.pruning.selection import largest
from tersor.shrinking.admm import Project, admm

BLOCK = 128
"""Columns whose mask is chosen at once (Frantar and Alistarh 2023, section 3.4)."""

REFINE = 60
"""Steps of ADMM that masks are refined with."""

POLISH = 20
"""Steps of conjugate gradients that the kept weights are polished with."""


@dataclass(frozen=True)
class Pruned:
    """weight: of the layer's shape and dtype, zero where `mask` (bool, the weight's shape) is False."""

    weight: Tensor
    mask: Tensor


def prune_layer(
    weight: Tensor,
    statistics: LayerStatistics,
    density: float | None = None,
    *,
    pattern: str = "weight",
    block: int = BLOCK,
    refine: int = REFINE,
    polish: int = POLISH,
    damping: float = DAMPING,
) -> Pruned:
    """A layer's weight with `density` of it kept, or in an N:M pattern, by blockwise OBS, ADMM and least squares.

    OBS goes column by column: u_j stays or becomes zero; u_k -= (u_j - q_j) V_jk for k > j. When a block of columns
    begins, the weights of least G_r u_rj^2 / U_jj^2 are pruned in it (`Factor`, `LayerStatistics.row_weights`): as many
    of the block, over all rows, as its columns' share; in N:M patterns, in each group of M neighbouring inputs.

    weight:     of the statistics' shape, finite.
    density:    in (0, 1]: exactly round(density * n) weights stay. None for N:M.
    pattern:    "weight" or N:M, such as "2:4", along the layer's inputs, whichever dimension holds them.
    block:      columns at a time; N:M patterns decide by groups.
    refine:     steps of `admm`, whose mask is taken where it leaves less error; 0 leaves the mask to OBS.
    polish:     steps of `polished`. SparseGPT takes neither: 0 and 0 are its own weights.
    Raises UsageError for bad options, MismatchError for another shape, CalibrationError for weights of NaN or Inf.
    """
    chosen = checked(density, pattern, "tensor")
    if chosen.kind not in ("weight", "n:m"):
        raise UsageError(f"pattern {pattern}: reconstruction prunes single weights or N:M; mask others, then `repair`")
    if block < 1 or polish < 0 or refine < 0:
        raise UsageError(f"block must be positive, refine and polish 0 or more, got {block!r}, {refine!r}, {polish!r}")
    u = _finite(as_matrices(weight, statistics))
    layout = statistics.layout
    if layout.diagonal:
        saliency = u.square() * statistics.row_weights()[..., None] * statistics.moment.double()[:, None]
        scores = layout.weight(saliency, statistics.shape)
        mask = mask_of(scores.T if layout.transposed else scores, density, pattern=pattern)
        mask = (mask.T if layout.transposed else mask).contiguous()
        return Pruned(_as_weight(u * layout.matrices(mask), statistics, weight), mask)
    if chosen.kind == "n:m":
        order = _by_inputs(statistics)
        factor = factorize(replace(statistics, moment=statistics.moment[:, order][..., order]), damping)
        runs = _group_runs(order.numel(), order.numel() // statistics.shape[2:].numel(), chosen.second, block)
        kept, values = _swept(u[..., order], factor, runs, _by_group(factor, chosen.first))
        back = order.argsort()
        kept, values = kept[..., back], values[..., back]
        project = _best_of_groups(pattern, statistics)
    else:
        assert density is not None
        factor = factorize(statistics, damping)
        runs = [[part] for part in _cut(0, u.shape[2], block)]
        kept, values = _swept(u, factor, runs, _by_share(u, factor, statistics.row_weights()[..., None], density))
        project = _best_share(density)
    if polish:
        values = polished(u, values, kept, statistics, polish, damping)
    if refine and not bool(kept.all()):
        mask, other = admm(u, statistics, project, refine, damping)
        if polish:
            other = polished(u, other, mask, statistics, polish, damping)
        if _damped_error(u - other, statistics, damping) < _damped_error(u - values, statistics, damping):
            kept, values = mask, other
    return Pruned(_as_weight(values, statistics, weight), layout.weight(kept, statistics.shape))


def repair(
    weight: Tensor, mask: Tensor, statistics: LayerStatistics, *, steps: int = POLISH, damping: float = DAMPING
) -> Tensor:
    """The weight whose entries outside `mask` (bool, its shape) are zero, the others made good for them.

    For masks that come from elsewhere; `steps` of `polished` from the masked weight. Of the weight's shape and dtype.
    Raises UsageError for a mask of another shape or dtype, and as `prune_layer`.
    """
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise UsageError(
            f"a mask must be bool and of the weight's shape {tuple(weight.shape)}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    u = _finite(as_matrices(weight, statistics))
    kept = statistics.layout.matrices(mask.cpu())
    values = u * kept
    if not statistics.layout.diagonal:
        values = polished(u, values, kept, statistics, steps, damping)
    return _as_weight(values, statistics, weight)


def polished(
    target: Tensor, start: Tensor, mask: Tensor, statistics: LayerStatistics, steps: int, damping: float = DAMPING
) -> Tensor:
    """Weights that are zero outside `mask`, with less (w - target) (H + a I) (w - target)^T in every row than `start`.

    All are float64 (G, R, N), the mask bool. Conjugate gradients on each row's kept weights with the diagonal as
    preconditioner, `steps` of them: the least squares that the mask allows, in the end (Meng et al. 2024, ALPS,
    section 3.2). a = `damping` times the mean of the diagonal of H.
    """
    moment = statistics.moment.double() / max(statistics.samples, 1)
    diagonal = moment.diagonal(dim1=1, dim2=2)
    ridge = damping * diagonal.mean(1)[:, None, None]
    scale = diagonal[:, None] + ridge
    inverse = torch.where(scale > 0, scale.reciprocal(), torch.zeros_like(scale))

    def product(rows: Tensor) -> Tensor:
        return (rows @ moment + ridge * rows) * mask

    values = start.clone()
    residual = product(target - values)
    step = inverse * residual
    power = (residual * step).sum(2, keepdim=True)
    for _ in range(steps):
        curved = product(step)
        curvature = (step * curved).sum(2, keepdim=True)
        length = torch.where(curvature > 0, power / curvature, torch.zeros_like(power))
        values += length * step
        residual -= length * curved
        scaled = inverse * residual
        after = (residual * scaled).sum(2, keepdim=True)
        step = scaled + torch.where(power > 0, after / power, torch.zeros_like(power)) * step
        power = after
    return values


Choose = Callable[[Tensor, slice], Tensor]
"""(weights (G, R, n) of some columns, which) -> bool of their shape: those that stay."""


def _swept(u: Tensor, factor: Factor, runs: list[list[slice]], choose: Choose) -> tuple[Tensor, Tensor]:
    """Mask and weights (G, R, N). runs: all columns in order; `choose` decides group by group, and the errors of a run
    of groups reach the columns behind it together."""
    values, kept = u.clone(), torch.ones(u.shape, dtype=torch.bool)
    for run in runs:
        part = slice(run[0].start, run[-1].stop)
        errors = torch.zeros_like(values[..., part])
        for group in run:
            kept[..., group] = choose(values[..., group], group)
            for j in range(group.start, group.stop):
                errors[..., j - part.start] = _settle(values, kept, factor, j, part.stop)
        _carry(values, errors, factor, part)
    return kept, values


def _by_share(u: Tensor, factor: Factor, rows: Tensor, density: float) -> Choose:
    """Of all rows together, the columns' share of round(density * n); `rows` (G, R, 1) are the rows' weights."""
    column = u.shape[0] * u.shape[1]

    def choose(values: Tensor, part: slice) -> Tensor:
        wanted = round(density * column * part.stop) - round(density * column * part.start)
        return _best(values.square() * rows * factor.precision()[:, None, part], wanted)

    return choose


def _by_group(factor: Factor, count: int) -> Choose:
    """`count` of each row."""

    def choose(values: Tensor, part: slice) -> Tensor:
        saliency = values.square() * factor.precision()[:, None, part]
        best = saliency.argsort(dim=2, descending=True, stable=True)[..., :count]
        return torch.zeros(values.shape, dtype=torch.bool).scatter_(2, best, True)

    return choose


def _best_share(density: float) -> Project:
    """The `density` of largest score."""

    def project(scores: Tensor) -> Tensor:
        return _best(scores, round(density * scores.numel()))

    return project


def _best(scores: Tensor, count: int) -> Tensor:
    """bool of the scores' shape: the `count` largest."""
    return torch.from_numpy(largest(scores.reshape(1, -1).numpy(), count)).reshape(scores.shape)


def _best_of_groups(pattern: str, statistics: LayerStatistics) -> Project:
    """The best of each group of neighbouring inputs."""
    kernel = statistics.shape[2:].numel()

    def project(scores: Tensor) -> Tensor:
        groups, rows, length = scores.shape
        flat = scores.reshape(groups * rows, length // kernel, kernel)
        return mask_of(flat, None, pattern=pattern).reshape(scores.shape)

    return project


def _damped_error(error: Tensor, statistics: LayerStatistics, damping: float) -> float:
    """sum_r G_r e_r (H + a I) e_r^T of errors (G, R, N)."""
    moment = statistics.moment.double() / max(statistics.samples, 1)
    ridge = damping * moment.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return float(((error @ moment + ridge * error) * error * statistics.row_weights()[..., None]).sum())


def _cut(begin: int, end: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, end)) for i in range(begin, end, size)]


def _group_runs(length: int, inputs: int, size: int, block: int) -> list[list[slice]]:
    """Groups of `size` of the `inputs` columns of each kernel position, in runs of about `block` columns."""
    runs = []
    for first in range(0, length, inputs):
        groups = _cut(first, first + inputs, size)
        together = max(block // size, 1)
        runs += [groups[i : i + together] for i in range(0, len(groups), together)]
    return runs


def _settle(values: Tensor, kept: Tensor, factor: Factor, column: int, end: int) -> Tensor:
    """Prunes a column by its mask and lets the columns up to `end` make up for it; the errors (G, R)."""
    assert factor.feedback is not None
    error = values[..., column] * ~kept[..., column]
    values[..., column] -= error
    values[..., column + 1 : end] -= error[..., None] * factor.feedback[:, None, column, column + 1 : end]
    return error


def _carry(values: Tensor, errors: Tensor, factor: Factor, part: slice) -> None:
    """Lets the columns behind `part` make up for the errors (G, R, n) in it."""
    assert factor.feedback is not None
    if part.stop < values.shape[2]:
        values[..., part.stop :] -= errors @ factor.feedback[:, part, part.stop :]


def _by_inputs(statistics: LayerStatistics) -> Tensor:
    """int64 (N,): the columns, inputs of one kernel position after the other."""
    kernel = statistics.shape[2:].numel()
    length = statistics.layout.shape(statistics.shape)[2]
    return torch.arange(length).reshape(-1, kernel).T.reshape(-1)


def _finite(matrices: Tensor) -> Tensor:
    if not bool(torch.isfinite(matrices).all()):
        raise CalibrationError("the weight holds NaN or Inf; repair it, or leave the layer out")
    return matrices


def _as_weight(values: Tensor, statistics: LayerStatistics, like: Tensor) -> Tensor:
    return statistics.layout.weight(values, statistics.shape).to(like.dtype).to(like.device)
