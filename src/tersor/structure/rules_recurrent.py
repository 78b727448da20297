"""Recurrent layers. H: hidden units; P: units of the output (H, or the size of the projection); g: gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from tersor.structure.labels import Factor, Labels, along, separate
from tersor.structure.rules import Context, Result, operation, rule, unlabelled
from tersor.structure.units import Atoms


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(context: Context, node: fx.Node) -> Result:
    """Unit h is row h of every gate in every matrix and bias, and column h of what reads it.

    All layers and directions share their sizes, so unit h is the same one in all of them.
    """
    if len(node.args) != 9 or not isinstance(node.args[7], bool):
        context.freeze(node.args, node, "packed sequences are not followed")
        return unlabelled(node)
    state = node.args[1] if isinstance(node.args[1], (list, tuple)) else [node.args[1]]
    weights: list[Any] = list(node.args[2])  # type: ignore[arg-type]
    biased, layers, directions = bool(node.args[3]), int(node.args[4]), 1 + bool(node.args[7])  # type: ignore[arg-type]
    gates = {"lstm": 4, "gru": 3}.get(operation(node), 1)
    each = len(weights) // (layers * directions)
    parts = [[context.of(w) for w in weights[i : i + each]] for i in range(0, len(weights), each)]
    reason = context.reason(node, "it meets positions that stay")
    x = context.of(node.args[0])
    x = separate(context.units, x, len(x.shape) - 1, reason)
    hidden, made = _units(context, parts, gates, biased, reason)
    inputs = along(x, -1)
    for layer in range(layers):
        for labels in parts[layer * directions : (layer + 1) * directions]:
            if labels[0].shape[1] > 1:
                context.role(labels[0], 1, "input")
                context.units.unite(inputs, along(labels[0], 1), reason)
        inputs = np.tile(made, directions)
    zero = all(_starts(context, node, s, a, reason) for s, a in zip(state, (made, hidden), strict=False))
    results = unlabelled(node)
    assert isinstance(results, list)
    atoms = (np.tile(made, directions), made, hidden)
    return [_last(r, a, zero) for r, a in zip(results, atoms, strict=False)]


def _units(
    context: Context, parts: Sequence[Sequence[Labels]], gates: int, biased: bool, reason: str
) -> tuple[Atoms, Atoms]:
    """(atoms of the hidden units (H,), of the output's (P,)), united in all layers and directions."""
    units = context.units
    projected = len(parts[0]) == (5 if biased else 3)
    hidden = along(parts[0][0], 0)[: parts[0][0].shape[0] // gates]
    made = along(parts[0][-1], 0) if projected else hidden
    for labels in parts:
        rows = [labels[0], labels[1], *(labels[2:4] if biased else ())]
        for matrix in rows:
            units.unite(hidden, along(matrix, 0).reshape(gates, -1), reason)
            context.role(matrix, 0, "output" if len(matrix.shape) == 2 else "vector")
        units.unite(made, along(labels[1], 1), reason)
        context.role(labels[1], 1, "input")
        if projected:
            units.unite(made, along(labels[-1], 0), reason)
            units.unite(hidden, along(labels[-1], 1), reason)
            context.role(labels[-1], 0, "output")
            context.role(labels[-1], 1, "input")
    for atoms in (hidden, made):
        units.set_kind(atoms, "hidden")
    return hidden, made


def _starts(context: Context, node: fx.Node, state: Any, atoms: Atoms, reason: str) -> bool:
    """Unites the units of an initial state with the layer's; whether removed units start from zero."""
    labels = context.of(state)
    last = len(labels.shape) - 1
    factor = labels.factor(last)
    labels = separate(context.units, labels, last, reason)
    context.units.unite(atoms, along(labels, last), reason)
    if factor is not None and len(labels.shape) > 2:
        context.fix(labels, range(last - 1), node, "layers and directions stay")
    return factor is not None and factor.zero


def _last(labels: Labels, atoms: Atoms, zero: bool) -> Labels:
    return Labels(labels.shape, (Factor((len(labels.shape) - 1,), atoms, zero),) if atoms.size > 1 else ())
