"""The tensors of a checkpoint, pruned and represented as a recipe says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.centring import centred
from tersor.container.writer import Entry
from tersor.disguise import Duplicates
from tersor.ends import find_ends
from tersor.errors import TersorWarning
from tersor.interop import Checkpoint, Grid, TensorInfo
from tersor.parallel import ordered_map
from tersor.progress import Progress
from tersor.pruning import Prune
from tersor.quantization import Lossless, NonFiniteError, Palettize, Quantize, RepresentationConfig
from tersor.recipe import Recipe, TensorKey, Treatment
from tersor.tensors import CompressedTensor, Uniform

_MIN_BUDGET = 32 << 20  # bytes of source tensors in flight, whatever the largest tensor


def compressed_entries(
    checkpoint: Checkpoint, recipe: Recipe, executor: Executor | None = None, progress: Progress | None = None
) -> Iterator[Entry]:
    """The tensors of a checkpoint, pruned and represented as the recipe says, in order.

    A tensor that the source stores on a grid of its own (`Checkpoint.read_grid`) keeps that grid, exactly, where it is
    to be lossless or quantized uniformly to as many bits as the grid has, or more, and neither pruned nor shared:
    more bits would cost more and lose more. Everything else works on the values. What is to be lossless and equals an
    earlier such tensor is an entry that says so.
    A tensor with NaN or infinite values that a lossy technique was meant for stays lossless, with a TersorWarning.
    Another one tells of weights that are held by masks: both are then tensors as any others.
    """
    infos = checkpoint.info.tensors
    held = next((i.name for i in infos if i.dtype == torch.bool and _HELD.search(i.name)), None)
    if held is not None:
        warnings.warn(
            f"the checkpoint holds masks of pruned weights ({held!r}) beside the weights as they are stored, and keeps "
            "both; give the module itself, or the state_dict of what finalize() returns, so that zeros are pruned",
            TersorWarning,
            stacklevel=2,
        )
    plan = recipe.plan([TensorKey(info.name, info.shape, info.dtype) for info in infos])
    total, done = sum(info.nbytes for info in infos), 0
    largest = max((info.nbytes for info in infos), default=0)
    for entry, nbytes in ordered_map(
        _fit,
        _jobs(checkpoint, plan),
        executor,
        cost=lambda job: job.source_bytes,
        budget=max(_MIN_BUDGET, largest),
    ):
        done += nbytes
        if progress is not None:
            progress(entry.name, done, total)
        yield entry


_HELD = re.compile(r"(^|\.)parametrizations\.[^.]+\.[0-9]+\.mask$")
"""Names of masks in state_dicts of networks that hold them (`shrinking.holding`)."""


def represent(
    name: str, value: Tensor, representation: RepresentationConfig, prune: Prune | None = None
) -> CompressedTensor:
    """One tensor, pruned and represented. Lossless with a TersorWarning if it holds NaN or infinite values."""
    try:
        return representation.fit(value, _mask(value, prune))
    except NonFiniteError as error:
        warnings.warn(
            f"tensor {name!r} stays lossless (exclude it to ask for that): {error}", TersorWarning, stacklevel=2
        )
        return Lossless().fit(value)


@dataclass(frozen=True)
class _Job:
    """One tensor to represent: from its value, from the source's own grid, or done already (shared codebooks).

    None of the three for a tied tensor, and for one that is a copy of the earlier tensor `copy_of`.
    """

    info: TensorInfo
    treatment: Treatment
    value: Tensor | None = None
    grid: Grid | None = None
    fitted: CompressedTensor | None = None
    copy_of: str | None = None

    @property
    def source_bytes(self) -> int:
        """Bytes that the value or the grid take in memory."""
        if self.value is not None:
            return self.info.nbytes
        return 0 if self.grid is None else self.grid.nbytes


def _jobs(checkpoint: Checkpoint, plan: dict[str, Treatment]) -> Iterator[_Job]:
    shared: dict[str, CompressedTensor] = {}
    duplicates = Duplicates()
    for info in checkpoint.info.tensors:
        treatment = plan[info.name]
        if info.tied_to is not None:
            yield _Job(info, treatment)
            continue
        if treatment.share is not None and info.name not in shared:
            shared.update(_fit_group(checkpoint, plan, treatment))
        if info.name in shared:
            yield _Job(info, treatment, fitted=shared.pop(info.name))
        else:
            # No variable here keeps the value alive while others work on it.
            yield _job(checkpoint, info, treatment, duplicates)


def _job(checkpoint: Checkpoint, info: TensorInfo, treatment: Treatment, duplicates: Duplicates) -> _Job:
    grid = _kept_grid(checkpoint, info.name, treatment)
    if grid is not None:
        return _Job(info, treatment, grid=grid)
    value = checkpoint.read(info.name)
    if isinstance(treatment.representation, Lossless) and not _prunes(treatment.prune):
        earlier = duplicates.find(info.name, value, checkpoint.read)
        if earlier is not None:
            return _Job(info, treatment, copy_of=earlier)
    return _Job(info, treatment, value=value)


def _kept_grid(checkpoint: Checkpoint, name: str, treatment: Treatment) -> Grid | None:
    """The source's own grid of a tensor, if that is what `treatment` asks for; see `compressed_entries`."""
    representation = treatment.representation
    if _prunes(treatment.prune) or not isinstance(representation, (Lossless, Quantize)):
        return None
    grid = checkpoint.read_grid(name)
    if grid is None or (isinstance(representation, Quantize) and representation.bits < grid.bits):
        return None
    return grid


def _fit_group(checkpoint: Checkpoint, plan: dict[str, Treatment], of: Treatment) -> dict[str, CompressedTensor]:
    """Fits all tensors that share a codebook. They are in memory together, as they must be."""
    infos = [i for i in checkpoint.info.tensors if plan[i.name].share == of.share and i.tied_to is None]
    values = [checkpoint.read(info.name) for info in infos]
    masks = [_mask(value, plan[info.name].prune) for info, value in zip(infos, values, strict=True)]
    assert isinstance(of.representation, Palettize)
    try:
        fitted = of.representation.fit_shared(values, masks)
    except NonFiniteError as error:
        names = ", ".join(info.name for info in infos)
        raise NonFiniteError(f"{error} (tensors that share a codebook: {names})") from error
    return {info.name: tensor for info, tensor in zip(infos, fitted, strict=True)}


def _fit(job: _Job) -> tuple[Entry, int]:
    info = job.info
    if info.tied_to is not None:
        return Entry(info.name, None, info.tied_to, info.note), 0
    if job.copy_of is not None:
        return Entry(info.name, None, job.copy_of, info.note, copied=True), info.nbytes
    tensor = job.fitted
    if job.grid is not None:
        tensor = _on_grid(info, job.grid)
    elif job.value is not None:
        tensor = represent(info.name, job.value, job.treatment.representation, job.treatment.prune)
    return Entry(info.name, tensor, None, info.note), info.nbytes


def _on_grid(info: TensorInfo, grid: Grid) -> Uniform:
    codes = grid.codes
    if grid.offset is not None:
        codes = centred(codes, grid.scale, grid.offset, grid.bits, grid.group_size)
    return Uniform(
        torch.Size(info.shape),
        info.dtype,
        None,
        grid.bits,
        codes,
        grid.scale,
        None,
        grid.group_size,
        grid.offset,
        False,
        *(find_ends(grid.scale, grid.offset, grid.bits) or (None, None)),
    )


def _prunes(prune: Prune | None) -> bool:
    return prune is not None and prune.density != 1.0


def _mask(value: Tensor, prune: Prune | None) -> Tensor | None:
    if prune is None or not _prunes(prune):
        return None
    return prune.mask(value)
