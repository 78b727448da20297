"""Labels of a tensor: which unit each position of each dimension belongs to.

A dimension is *labelled* (a factor holds atoms for its positions) or *fixed* (nobody can remove its positions).
Dimensions that `expand` or `zeros` make are labelled too: their sizes follow those of what they meet. A factor may
cover several dimensions: after channels are viewed as (heads, size of a head), the unit of a position depends on
both, until some operation says along which of the two positions live together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tersor.structure.units import Atoms, Units

_LARGEST = 1 << 24
"""Positions of one factor; larger ones are not followed."""


@dataclass(frozen=True)
class Factor:
    """dims: ascending; atoms: int64, one axis for each of them; zero: removed positions hold zero values."""

    dims: tuple[int, ...]
    atoms: Atoms
    zero: bool = True


@dataclass(frozen=True)
class Labels:
    """Labels of a tensor of this shape. `weight`: it is computed from parameters and constants alone."""

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    weight: bool = False

    def factor(self, dim: int) -> Factor | None:
        """The factor that covers a dimension (negative ones count from the end), if it is labelled."""
        dim = dim % len(self.shape) if self.shape else 0
        return next((f for f in self.factors if dim in f.dims), None)

    def with_zero(self, zero: bool) -> Labels:
        """The same labels of values of which removed positions hold zeros, or do not."""
        return replace(self, factors=tuple(replace(f, zero=zero) for f in self.factors))


def simplified(units: Units, dims: Sequence[int], atoms: Atoms, zero: bool) -> tuple[Factor, ...]:
    """A factor without the dimensions along which nothing changes; none if it labels nothing."""
    if not atoms.any():
        return ()
    dims = list(dims)
    roots: Atoms = units.find(atoms)
    for dim in sorted(dims, key=lambda d: atoms.shape[dims.index(d)]):
        axis = dims.index(dim)
        if len(dims) > 1 and (roots == roots.take([0], axis)).all():
            atoms, roots = atoms.take([0], axis).squeeze(axis), roots.take([0], axis).squeeze(axis)
            dims.pop(axis)
    if len(dims) == 1 and atoms.shape[0] == 1:
        return ()
    order = np.argsort(dims)
    return (Factor(tuple(sorted(dims)), atoms.transpose(order), zero),)


def fix(units: Units, labels: Labels, dim: int, reason: str) -> Labels:
    """The dimension keeps all its positions: the others of its factor carry the unit; alone, it is frozen."""
    factor = labels.factor(dim)
    if factor is None:
        return labels
    others = tuple(f for f in labels.factors if f is not factor)
    if len(factor.dims) == 1:
        units.freeze(factor.atoms, reason)
        return replace(labels, factors=others)
    axis = factor.dims.index(dim % len(labels.shape))
    first = factor.atoms.take([0], axis)
    units.unite(first, factor.atoms, reason)
    rest = [d for d in factor.dims if d != factor.dims[axis]]
    return replace(labels, factors=(*others, *simplified(units, rest, first.squeeze(axis), factor.zero)))


def separate(units: Units, labels: Labels, dim: int, reason: str) -> Labels:
    """The dimension alone carries its units (or none, where they do not change along it)."""
    factor = labels.factor(dim)
    if factor is None or len(factor.dims) == 1:
        return labels
    others = tuple(f for f in labels.factors if f is not factor)
    labels = replace(labels, factors=(*others, *simplified(units, factor.dims, factor.atoms, factor.zero)))
    factor = labels.factor(dim)
    for other in factor.dims if factor is not None else ():
        if other != dim % len(labels.shape):
            labels = fix(units, labels, other, reason)
    return labels


def along(labels: Labels, dim: int) -> Atoms:
    """int64 (size,): the atoms of a separated dimension, 0 where it is not labelled."""
    factor = labels.factor(dim)
    if factor is None:
        return np.zeros(labels.shape[dim], np.int64)
    assert len(factor.dims) == 1
    return factor.atoms


def with_dim(labels: Labels, dim: int, atoms: Atoms, zero: bool = True) -> Labels:
    """The labels with those of one separated dimension replaced (its size may differ)."""
    dim = dim % len(labels.shape)
    factors = tuple(f for f in labels.factors if dim not in f.dims)
    shape = (*labels.shape[:dim], atoms.shape[0], *labels.shape[dim + 1 :])
    if atoms.any() and atoms.shape[0] > 1:
        factors = (*factors, Factor((dim,), atoms, zero))
    return replace(labels, shape=shape, factors=factors)


def moved(labels: Labels, shape: Sequence[int], where: dict[int, int]) -> Labels:
    """The labels of a tensor whose dimension `where[d]` is the old d; the other dimensions are fixed."""
    factors = []
    for factor in labels.factors:
        dims = [where[d] for d in factor.dims]
        order = np.argsort(dims)
        factors.append(Factor(tuple(dims[i] for i in order), factor.atoms.transpose(order), factor.zero))
    return Labels(tuple(shape), tuple(factors), labels.weight)


def aligned(units: Units, operands: Sequence[Labels], shape: Sequence[int], reason: str, zero: str = "all") -> Labels:
    """Labels of an elementwise result; the operands' positions that meet are united.

    shape: that of the result, to which all broadcast. zero: removed positions of the result are zero where those
    of "all", "any" or the "first" of the operands are; an operand that is broadcast there counts as not zero.
    """
    rank = len(shape)
    parts = [moved(o, (1,) * (rank - len(o.shape)) + o.shape, _shift(o, rank)) for o in operands]
    weight = bool(operands) and all(o.weight for o in operands)
    _settle(units, parts, rank, reason)
    factors: list[Factor] = []
    for cluster in _clusters(parts):
        sizes = tuple(shape[d] for d in cluster)
        found = [next((f for f in part.factors if f.dims[0] in cluster), None) for part in parts]
        arrays = [_broadcast(f, cluster, sizes) for f in found if f is not None]
        main = max(arrays, key=lambda array: (not units.made(array), sum(s != 0 for s in array.strides)))
        for array in arrays:
            units.unite(main, array, reason)
        fixed = np.logical_or.reduce([array == 0 for array in arrays])
        zeros = [f is not None and f.zero for f in found]
        is_zero = {"all": all(zeros), "any": any(zeros), "first": zeros[0]}[zero]
        factors.extend(simplified(units, cluster, np.where(fixed, 0, main), is_zero))
    return Labels(tuple(shape), tuple(factors), weight)


def _shift(labels: Labels, rank: int) -> dict[int, int]:
    return {d: d + rank - len(labels.shape) for d in range(len(labels.shape))}


def _broadcast(factor: Factor, cluster: Sequence[int], sizes: Sequence[int]) -> Atoms:
    index = tuple(slice(None) if d in factor.dims else None for d in cluster)
    return np.broadcast_to(factor.atoms[index], sizes)


def _clusters(parts: Sequence[Labels]) -> list[list[int]]:
    """Dimensions that factors of any operand tie together."""
    clusters: list[set[int]] = []
    for factor in (f for part in parts for f in part.factors):
        touching = [c for c in clusters if c & set(factor.dims)]
        clusters = [c for c in clusters if c not in touching]
        clusters.append(set(factor.dims).union(*touching))
    return sorted(sorted(c) for c in clusters)


def _settle(units: Units, parts: list[Labels], rank: int, reason: str) -> None:
    """Fixes, in place, what meets a fixed dimension, and all but one of several factors that meet one factor."""
    while True:
        before = list(parts)
        for d in range(rank):
            if any(part.shape[d] > 1 and part.factor(d) is None for part in parts):
                parts[:] = [fix(units, part, d, reason) for part in parts]
        for cluster in _clusters(parts):
            for i, part in enumerate(parts):
                inside = [f for f in part.factors if f.dims[0] in cluster]
                for d in (d for f in inside[1:] for d in f.dims):
                    parts[i] = fix(units, parts[i], d, reason)
        if all(a is b for a, b in zip(before, parts, strict=True)):
            return


def reshaped(units: Units, labels: Labels, shape: Sequence[int], reason: str) -> Labels:
    """Labels after a row-major reshape.

    Dimensions that merge hand their labels to the positions of the product; one that splits leaves a factor over
    the parts. Of several labelled dimensions that would merge, all but the largest are fixed (first those that
    were made by `expand` and the like).
    """
    new_shape = tuple(shape)
    if 0 in labels.shape or 0 in new_shape:
        return Labels(new_shape, weight=labels.weight)
    rank = len(labels.shape)
    # Old dimensions keep their numbers while blocks are worked through; new ones are counted from `rank` on.
    for olds, news in _blocks(labels.shape, new_shape):
        labels = _merge(units, labels, olds, reason)
        factor = next((f for f in labels.factors if set(f.dims) & set(olds)), None)
        if factor is None:
            continue
        rest = [d for d in factor.dims if d not in olds]
        targets = [rank + d for d in news] + rest
        atoms = _over(factor, olds, rest, labels.shape)
        sizes = [new_shape[d] for d in news] + list(atoms.shape[len(olds) :])
        kept = tuple(f for f in labels.factors if f is not factor)
        made = simplified(units, targets, atoms.reshape(sizes), factor.zero)
        units.splits.extend(f.atoms for f in made if len(f.dims) > 1)
        labels = replace(labels, factors=(*kept, *made))
    factors = tuple(Factor(tuple(d - rank for d in f.dims), f.atoms, f.zero) for f in labels.factors)
    return Labels(new_shape, factors, labels.weight)


def _merge(units: Units, labels: Labels, olds: Sequence[int], reason: str) -> Labels:
    touching = [f for f in labels.factors if set(f.dims) & set(olds)]
    touching.sort(key=lambda f: (units.made(f.atoms), -f.atoms.size))
    if touching:
        rest = [d for d in touching[0].dims if d not in olds]
        size = int(np.prod([labels.shape[d] for d in olds if d < len(labels.shape)], dtype=np.int64))
        size *= int(np.prod([touching[0].atoms.shape[touching[0].dims.index(d)] for d in rest], dtype=np.int64))
        for factor in touching if size > _LARGEST else touching[1:]:
            for d in set(factor.dims) & set(olds):
                labels = fix(units, labels, d, reason)
    return labels


def _over(factor: Factor, olds: Sequence[int], rest: Sequence[int], shape: Sequence[int]) -> Atoms:
    """The atoms as an array over all of `olds`, then `rest`."""
    order = [factor.dims.index(d) for d in (*(d for d in olds if d in factor.dims), *rest)]
    atoms = factor.atoms.transpose(order)
    index = (*(slice(None) if d in factor.dims else None for d in olds), *(slice(None) for _ in rest))
    return np.broadcast_to(atoms[index], (*(shape[d] for d in olds), *atoms.shape[atoms.ndim - len(rest) :]))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions, of more than one position, with equal products."""
    olds, news = ([d for d in range(len(s)) if s[d] != 1] for s in (old, new))
    result, i, j = [], 0, 0
    while i < len(olds):
        left, right = [olds[i]], [news[j]]
        a, b = old[olds[i]], new[news[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                left.append(olds[i])
                a, i = a * old[olds[i]], i + 1
            else:
                right.append(news[j])
                b, j = b * new[news[j]], j + 1
        result.append((left, right))
    return result
