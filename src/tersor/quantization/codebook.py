"""Palettize: weights that share a few values, by k-means (Han et al. 2016, Deep Compression, section 3).

Legend: O output channels (rows), N weights a row, T codebooks, K centroids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.errors import MismatchError, UsageError
from tersor.matrices import blocks, float_matrix, mask_matrix
from tersor.quantization.config import RepresentationConfig, owned_mask, round_means
from tersor.quantization.kmeans import kmeans
from tersor.tensors import Codebook


@dataclass(frozen=True)
class Palettize(RepresentationConfig):
    """2^bits shared values a codebook.

    bits: 1 to 8.
    init: "exact" for the optimum in one dimension; "linear", "density" and "random" are Deep Compression's
          starting points (section 3.2) for Lloyd's iterations.
    runs: codebooks a tensor: rows are split into that many runs of equal length (fewer where rows are fewer).
    """

    name: ClassVar[str] = "palettize"

    bits: int = 4
    init: Literal["exact", "linear", "density", "random"] = "exact"
    runs: int = 1

    def __post_init__(self) -> None:
        self.check_integer("bits", 1, 8)
        self.check_choice("init", ("exact", "linear", "density", "random"))
        self.check_integer("runs", 1, 2**31 - 1)

    def fit(self, weight: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> Codebook:
        """The `Codebook` of least (weighted) squared error over the kept weights. Raises as `float_matrix`.

        weights: importance of each weight in the clustering, >= 0 and of the weight's shape; None counts all
                 alike.

        Centroids keep as few significant bits of 8, 16 and 24 as add less than 0.1 % to the squared error: 2,
        3 or 4 bytes each in a file.
        """
        values, kept = float_matrix(weight), mask_matrix(mask, weight)
        importance = _importance(weights, weight)
        rows = values.shape[0]
        run = max(-(-rows // self.runs), 1)
        codes = np.zeros(values.shape, np.uint8)
        tables = []
        for start in range(0, max(rows, 1), run):
            part = slice(start, start + run)
            part_kept = None if kept is None else kept[part]
            part_importance = None if importance is None else importance[part]
            centroids, part_codes = self._cluster(
                _kept_values(values[part], part_kept),
                None if part_importance is None else _kept_values(part_importance, part_kept),
            )
            _scatter(part_codes, part_kept, codes[part])
            tables.append(centroids)
        return Codebook(
            weight.shape,
            weight.dtype,
            owned_mask(mask),
            self.bits,
            torch.from_numpy(codes).reshape(weight.shape),
            torch.from_numpy(_stacked(tables)),
        )

    def fit_shared(self, weights: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Codebook]:
        """One codebook for several tensors, clustered together; all results hold the same `codebook` object.

        Raises UsageError unless runs is 1 and there is a mask (or None) for each weight, and as `fit`.
        """
        if self.runs != 1:
            raise UsageError(f"{self.name}: a shared codebook needs runs=1, got runs={self.runs}")
        every_mask = list(masks) if masks is not None else [None] * len(weights)
        if len(every_mask) != len(weights):
            raise UsageError(f"{self.name}: {len(weights)} weights need as many masks, got {len(every_mask)}")
        keeps = [mask_matrix(mask, weight) for weight, mask in zip(weights, every_mask, strict=True)]
        parts = [_kept_values(float_matrix(weight), kept) for weight, kept in zip(weights, keeps, strict=True)]
        if not parts:
            return []
        centroids, joint_codes = self._cluster(np.concatenate(parts), None)
        table = torch.from_numpy(centroids.reshape(1, -1))
        ends = np.cumsum([part.size for part in parts])
        results = []
        for i, weight in enumerate(weights):
            codes = np.zeros(float_matrix(weight).shape, np.uint8)
            _scatter(joint_codes[ends[i] - parts[i].size : ends[i]], keeps[i], codes)
            tensor = torch.from_numpy(codes).reshape(weight.shape)
            results.append(Codebook(weight.shape, weight.dtype, owned_mask(every_mask[i]), self.bits, tensor, table))
        return results

    def _cluster(
        self, values: NDArray[np.float32], importance: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(centroids (K,) ascending, codes (n,)) of values (n,); of no values, one centroid that is zero."""
        if values.size == 0:
            return np.zeros(1, np.float32), np.zeros(0, np.uint8)
        if importance is not None and not importance.any():
            importance = None  # nothing matters, so all matter alike

        result = kmeans(values, 2**self.bits, weights=importance, init=self.init)
        mass = _cluster_mass(importance, result.codes, result.centroids.size)
        return round_means(result.centroids, mass, result.sse), result.codes


def _cluster_mass(
    importance: NDArray[np.float32] | None, codes: NDArray[np.uint8], centroids: int
) -> NDArray[np.float64]:
    """Total weight of each cluster (K,)."""
    mass = np.zeros(centroids)
    for block in blocks(codes.size):
        part = None if importance is None else importance[block]
        mass += np.bincount(codes[block], weights=part, minlength=centroids)
    return mass


def _importance(weights: Tensor | None, weight: Tensor) -> NDArray[np.float32] | None:
    if weights is None:
        return None
    if weights.shape != weight.shape:
        raise MismatchError(f"weights must have the shape {tuple(weight.shape)}, got {tuple(weights.shape)}")
    importance = float_matrix(weights)
    if importance.size and float(importance.min()) < 0:
        raise UsageError("palettize: weights (the importance of each weight) must be 0 or more; some are negative")
    return importance


def _kept_values(values: NDArray[np.float32], kept: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    return values.reshape(-1) if kept is None else values[kept]


def _scatter(part: NDArray[np.uint8], kept: NDArray[np.bool_] | None, codes: NDArray[np.uint8]) -> None:
    if kept is None:
        codes[...] = part.reshape(codes.shape)
    else:
        codes[kept] = part


def _stacked(tables: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(T, K): tables of fewer centroids repeat their last one, which no code points to."""
    width = max(table.size for table in tables)
    return np.stack([np.pad(table, (0, width - table.size), mode="edge") for table in tables])
