"""Union-find over atoms: which positions of which dimensions live or die together.

Every position of every dimension of every parameter starts as an atom of its own; classes of atoms are the units
that can be removed. Atom 0 stands for positions that nobody can remove (of the batch, of an image, of a kernel).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Atoms = NDArray[np.int64]

ROLES = ("vector", "input", "output")
KINDS = ("channel", "hidden", "head")


class Units:
    """Classes of atoms, with what is known of each atom: a reason to keep it, its role, kind, whether normalised."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._why = np.zeros(1, np.int32)
        self._role = np.zeros(1, np.int8)
        self._kind = np.zeros(1, np.int8)
        self._normalised = np.zeros(1, np.bool_)
        self._made = np.zeros(1, np.bool_)
        self._count = 1
        self._reasons: dict[str, int] = {}
        self.splits: list[Atoms] = []
        """Atoms over several dimensions; along one of them, alone, units may change in the end."""

    def fresh(self, count: int, made: bool = False) -> Atoms:
        """int64 (count,): new atoms, each a class of its own. `made`: of a tensor that the program makes itself."""
        start, end = self._count, self._count + count
        if end > self._parent.size:
            extra = max(end, 2 * self._parent.size) - self._parent.size
            for name in ("_parent", "_why", "_role", "_kind", "_normalised", "_made"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(extra, old.dtype)]))
        self._count = end
        self._parent[start:end] = np.arange(start, end)
        self._made[start:end] = made
        return np.arange(start, end, dtype=np.int64)

    def made(self, atoms: Atoms) -> bool:
        """Whether all of them belong to tensors that the program makes itself."""
        return bool(self._made[atoms].all())

    def find(self, atoms: Atoms) -> Atoms:
        """The representative of each atom's class, of the shape given."""
        roots = self._parent[atoms]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[atoms] = roots
        return roots

    def unite(self, a: Atoms, b: Atoms, reason: str) -> None:
        """Makes one class of a[i] and b[i] (arrays that broadcast); where one is atom 0 the other is frozen."""
        a, b = (array.reshape(-1) for array in np.broadcast_arrays(a, b))
        fixed = (a == 0) | (b == 0)
        if fixed.any():
            self.freeze(np.concatenate([a[fixed], b[fixed]]), reason)
            a, b = a[~fixed], b[~fixed]
        while a.size:
            a, b = self.find(a), self.find(b)
            apart = a != b
            a, b = a[apart], b[apart]
            # Several edges may lower the same root; the one written last holds, the others come round again.
            self._parent[np.maximum(a, b)] = np.minimum(a, b)

    def freeze(self, atoms: Atoms, reason: str) -> None:
        """Keeps the classes of the atoms; the first reason given for an atom stays."""
        atoms = atoms[(atoms != 0) & (self._why[atoms] == 0)]
        if atoms.size:
            self._why[atoms] = self._reasons.setdefault(reason, len(self._reasons) + 1)

    def settle_splits(self) -> None:
        """Units of a tensor that was viewed in several dimensions are the positions of one of them.

        What is left of a tensor of which units were removed is a box only then. The dimension along which units
        change already; if there are several, the longest, and the last among equals.
        """
        for atoms in self.splits:
            roots = self.find(atoms)
            changing = [axis for axis in range(atoms.ndim) if (roots != roots.take([0], axis)).any()]
            keep = max(changing, key=lambda axis: (atoms.shape[axis], axis), default=0)
            for axis in changing:
                if axis != keep:
                    self.unite(atoms.take([0], axis), atoms, "several dimensions would change at once")

    def freeze_made(self) -> None:
        """Sizes of tensors that the program makes itself follow others only where some layer computes those."""
        every = np.arange(self._count)
        roots = self.find(every)
        computed = np.zeros(self._count, np.bool_)
        computed[roots[self._role[: self._count] == ROLES.index("output")]] = True
        self.freeze(every[self._made[: self._count] & ~computed[roots]], "the program makes it of a fixed size")

    def set_role(self, atoms: Atoms, role: str) -> None:
        """An atom with several roles keeps the one that stands last in ROLES."""
        self._role[atoms] = np.maximum(self._role[atoms], ROLES.index(role))

    def set_kind(self, atoms: Atoms, kind: str) -> None:
        """A class is of the kind that stands last in KINDS among its atoms'."""
        self._kind[atoms] = np.maximum(self._kind[atoms], KINDS.index(kind))

    def set_normalised(self, atoms: Atoms) -> None:
        """The channels of these atoms pass a normalisation over channels."""
        self._normalised[atoms] = True

    def classes(self) -> Classes:
        """What is known of whole classes, once everything is united."""
        every = np.arange(self._count)
        roots = self.find(every)
        why = np.full(self._count, np.iinfo(np.int32).max, np.int32)
        marked = self._why[: self._count] > 0
        np.minimum.at(why, roots[marked], self._why[: self._count][marked])
        why[why == np.iinfo(np.int32).max] = 0
        why[0] = 0
        kind = np.zeros(self._count, np.int8)
        np.maximum.at(kind, roots, self._kind[: self._count])
        normalised = np.zeros(self._count, np.bool_)
        np.logical_or.at(normalised, roots, self._normalised[: self._count])
        return Classes(roots, why, kind, normalised, self._role[: self._count].copy(), ("", *self._reasons))


class Classes:
    """Root of each atom; by root: index of the reason to keep it (0: free), kind, normalised; by atom: role."""

    def __init__(
        self,
        roots: Atoms,
        why: NDArray[np.int32],
        kind: NDArray[np.int8],
        normalised: NDArray[np.bool_],
        role: NDArray[np.int8],
        reasons: tuple[str, ...],
    ) -> None:
        self.roots, self.why, self.kind, self.normalised, self.role = roots, why, kind, normalised, role
        self.reasons = reasons
