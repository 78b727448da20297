"""One rule for each operation: from the labels of its arguments to those of its results.

A rule takes the context and the node and returns `Labels` (a list of them for several results). It unites what must
live together, and freezes what it cannot follow. Operations without a rule freeze all they touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor, fx

from tersor.structure.labels import Factor, Labels, fix
from tersor.structure.trace import module_path
from tersor.structure.units import Units

Result = Labels | list[Labels]
Rule = Callable[["Context", fx.Node], Result]

RULES: dict[str, Rule] = {}

_VIEWS = (
    "view reshape flatten unflatten transpose permute t mT select slice narrow squeeze unsqueeze expand expand_as "
    "getitem view_as movedim chunk split unbind detach alias diagonal swapaxes"
)
VIEWS = frozenset(_VIEWS.split())
"""Operations whose results share memory with their argument, or may."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for aten operations (all overloads; in-place ones share their names; several in a string)."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(" ".join(names).split(), function))
        return function

    return register


def operation(node: fx.Node) -> str:
    """The name of its aten operation, without overload and without the underscore of in-place ones."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    name = str(getattr(packet, "__name__", getattr(target, "__name__", target)))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@dataclass(frozen=True)
class Normalised:
    """A node that takes statistics over dimensions of its input of which positions can be removed."""

    node: fx.Node
    dims: tuple[int, ...]
    labels: Labels


@dataclass
class Context:
    """What is known while a trace is followed: labels of each node's results."""

    units: Units = field(default_factory=Units)
    labels: dict[fx.Node, Result] = field(default_factory=dict)
    normalised: list[Normalised] = field(default_factory=list)
    initial: dict[int, Labels] = field(default_factory=dict)
    """By the id of a parameter or saved buffer: the fresh labels it started with."""

    def of(self, value: Any) -> Labels:
        """The labels of an argument; a number has none."""
        if isinstance(value, fx.Node):
            found = self.labels.get(value)
            if isinstance(found, Labels):
                return found
        return Labels((), weight=True)

    def fix(self, labels: Labels, dims: Sequence[int] | int, node: fx.Node, why: str) -> Labels:
        """The labels with these dimensions fixed; `why` says what the operation does with them."""
        for dim in [dims] if isinstance(dims, int) else dims:
            labels = fix(self.units, labels, dim, self.reason(node, why))
        return labels

    def freeze(self, value: Any, node: fx.Node | None, why: str) -> None:
        """Nothing of an argument can be removed (lists are gone through). `node`: what decides that."""
        if isinstance(value, (list, tuple)):
            for part in value:
                self.freeze(part, node, why)
        found = self.labels.get(value) if isinstance(value, fx.Node) else None
        for labels in found if isinstance(found, list) else [found] if found is not None else []:
            for factor in labels.factors:
                self.units.freeze(factor.atoms.reshape(-1), why if node is None else self.reason(node, why))

    def reason(self, node: fx.Node, why: str) -> str:
        """The text, and where: "why (aten.op in module)"."""
        return f"{why} (aten.{operation(node)} in {module_path(node)})"

    def made(self, shape: Sequence[int], labels: Labels, dims: Sequence[int], zero: bool) -> Labels:
        """The labels with fresh ones for dimensions that the program makes; `zero`: of nothing but zeros."""
        new = tuple(Factor((d,), self.units.fresh(shape[d], made=True), zero) for d in dims if shape[d] > 1)
        return replace(labels, shape=tuple(shape), factors=(*labels.factors, *new))

    def role(self, labels: Labels, dim: int, role: str) -> None:
        """What a parameter's dimension does there; other values have no roles."""
        factor = labels.factor(dim)
        if labels.weight and factor is not None:
            self.units.set_role(factor.atoms.reshape(-1), role)

    def normalise(self, node: fx.Node, labels: Labels, dims: Sequence[int]) -> Labels:
        """Statistics over these dimensions: those labelled become normalised, and the node is noted."""
        rank = len(labels.shape)
        dims = sorted(d % rank for d in dims)
        for factor in labels.factors:
            if not set(factor.dims) <= set(dims):
                inside = [d for d in factor.dims if d in dims]
                labels = self.fix(labels, inside, node, "statistics are taken over a part of its positions")
        over = [f for f in labels.factors if set(f.dims) <= set(dims)]
        for factor in over:
            self.units.set_normalised(factor.atoms.reshape(-1)[factor.atoms.reshape(-1) > 0])
        if over:
            self.normalised.append(Normalised(node, tuple(dims), labels))
        return labels


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's result."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def unlabelled(node: fx.Node) -> Result:
    """Results nothing of which can be removed."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return [Labels(tuple(v.shape) if isinstance(v, Tensor) else ()) for v in value]
    return Labels(shape_of(node))


@cache
def _names(target: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value) for a in target._schema.arguments)


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument of the operation by the name its schema gives it, or its default."""
    for i, (known, value) in enumerate(_names(node.target)):
        if known == name:
            given = node.args[i] if i < len(node.args) else node.kwargs.get(name, value)
            return default if given is None else given
    return default
