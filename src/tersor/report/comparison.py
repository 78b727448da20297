"""How two checkpoints (either may be a .tsr file) differ, tensor by tensor."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tersor.container.index import MAGIC
from tersor.container.reader import Reader
from tersor.interop import Checkpoint, TensorInfo, open_checkpoint
from tersor.restore import RestoredCheckpoint

_BLOCK = 1 << 22  # elements compared at once, so that float64 copies stay small


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of A against its namesake in B.

    bytes_a, bytes_b: as stored. bits_b: stored bits a weight of B. identical: equal to the bit (NaN included).
    max_error, rms_error: of B against A, absolute. sqnr: signal to noise in dB, 10 log10(sum a^2 / sum (a-b)^2);
    infinite where nothing differs. The last three are None where they mean nothing.
    """

    name: str
    shape: tuple[int, ...]
    bytes_a: int
    bytes_b: int
    bits_b: float | None
    identical: bool
    max_error: float | None
    rms_error: float | None
    sqnr: float | None


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints. problems: names that are missing on one side, shapes or dtypes that differ."""

    a: str
    b: str
    tensors: tuple[TensorDifference, ...]
    problems: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether both hold the same tensors, equal to the bit."""
        return not self.problems and all(tensor.identical for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Infinite ratios become None."""
        data = asdict(self)
        for row in data["tensors"]:
            for key in ("max_error", "rms_error", "sqnr"):
                if row[key] is not None and not math.isfinite(row[key]):
                    row[key] = None
        return {**data, "identical": self.identical}


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compares two checkpoints of any kind, one tensor at a time. Raises InputError or CorruptFileError."""
    with _open(a) as left, _open(b) as right:
        ours = {info.name: info for info in left.info.tensors}
        theirs = {info.name: info for info in right.info.tensors}
        problems = [f"{name}: only in {os.fspath(a)}" for name in ours if name not in theirs]
        problems += [f"{name}: only in {os.fspath(b)}" for name in theirs if name not in ours]
        rows = []
        for name in (name for name in ours if name in theirs):
            one, two = ours[name], theirs[name]
            if one.shape != two.shape:
                problems.append(f"{name}: shape {one.shape} against {two.shape}")
                continue
            if one.dtype != two.dtype:
                problems.append(f"{name}: {one.dtype} against {two.dtype}")
            size_a, size_b = _stored(left, one), _stored(right, two)
            rows.append(difference(name, left.read(name), right.read(name), size_a, size_b))
    return Comparison(os.fspath(a), os.fspath(b), tuple(rows), tuple(problems))


def difference(name: str, a: Tensor, b: Tensor, bytes_a: int, bytes_b: int) -> TensorDifference:
    """Errors of `b` against `a`, of the same shape."""
    count = a.numel()
    bits = 8 * bytes_b / count if count else None
    same = a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))
    if same:
        return TensorDifference(name, tuple(a.shape), bytes_a, bytes_b, bits, True, 0.0, 0.0, math.inf)
    if a.is_complex() or b.is_complex():
        return TensorDifference(name, tuple(a.shape), bytes_a, bytes_b, bits, False, None, None, None)
    worst = signal = noise = 0.0
    for x, y in zip(a.reshape(-1).split(_BLOCK), b.reshape(-1).split(_BLOCK), strict=True):
        x, y = x.double(), y.double()
        error = (x - y).nan_to_num(nan=math.inf)
        worst = max(worst, float(error.abs().max()))
        signal += float(x.square().sum())
        noise += float(error.square().sum())
    sqnr = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    rms = math.sqrt(noise / count)
    return TensorDifference(name, tuple(a.shape), bytes_a, bytes_b, bits, False, worst, rms, sqnr)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _open(path: str | os.PathLike[str]) -> Checkpoint:
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return RestoredCheckpoint(Reader(path))
    return open_checkpoint(path)


def _stored(checkpoint: Checkpoint, info: TensorInfo) -> int:
    if isinstance(checkpoint, RestoredCheckpoint):
        return checkpoint.stored_bytes(info.name)
    return 0 if info.tied_to is not None else info.nbytes
