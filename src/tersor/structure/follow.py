"""Follows labels through a trace, from the parameters to the results."""

from __future__ import annotations

import torch
from torch import fx

# Importing the rules registers them.
from tersor.structure import (  # noqa: F401
    rules_convolutions,
    rules_elementwise,
    rules_layers,
    rules_norms,
    rules_recurrent,
    rules_shapes,
)
from tersor.structure.labels import Factor, Labels
from tersor.structure.rules import RULES, VIEWS, Context, Result, operation, unlabelled
from tersor.structure.trace import Trace


def follow(trace: Trace) -> Context:
    """The labels of everything in the trace, and which atoms live together."""
    context = Context()
    for node in trace.graph.graph.nodes:
        if node.op == "placeholder":
            context.labels[node] = _placeholder(context, trace, node)
        elif node.op == "get_attr":
            context.labels[node] = unlabelled(node)
        elif node.op == "output":
            context.freeze(node.args, None, "the network returns it")
        else:
            context.labels[node] = _result(context, node)
    context.units.settle_splits()
    context.units.freeze_made()
    return context


def _placeholder(context: Context, trace: Trace, node: fx.Node) -> Result:
    """Fresh labels for each dimension of a parameter or a saved buffer of floats; tied ones share them."""
    tensor = trace.tensors.get(node.name)
    if tensor is None:
        return unlabelled(node)
    if not trace.names[node.name] or not tensor.is_floating_point():
        return Labels(tuple(tensor.shape), weight=True)
    known = context.initial
    if id(tensor) not in known:
        sizes = enumerate(tensor.shape)
        factors = tuple(Factor((d,), context.units.fresh(size)) for d, size in sizes if size > 1)
        known[id(tensor)] = Labels(tuple(tensor.shape), factors, weight=True)
    return known[id(tensor)]


def _result(context: Context, node: fx.Node) -> Result:
    name = operation(node)
    if name == "getitem":
        parts = context.labels[node.args[0]]  # type: ignore[index]
        return parts[node.args[1]] if isinstance(parts, list) else unlabelled(node)  # type: ignore[index]
    found = RULES.get(name)
    if found is None or not isinstance(node.target, torch._ops.OpOverload):
        context.freeze((*node.args, *node.kwargs.values()), node, "there is no rule for this operation")
        return unlabelled(node)
    result = found(context, node)
    if node.target._schema.is_mutable and node.args and isinstance(node.args[0], fx.Node):
        _written(context, node, node.args[0], result)
    return result


def _written(context: Context, node: fx.Node, target: fx.Node, result: Result) -> None:
    """An operation in place gives its labels to what it wrote to.

    What it wrote to may be a view: there, values that are no longer zero would have to be known to the rest.
    """
    before = context.of(target)
    zero = isinstance(result, Labels) and all(f.zero for f in result.factors)
    if any(f.zero for f in before.factors) and not zero and operation(target) in VIEWS:
        context.freeze(target, node, "it writes to a view")
    context.labels[target] = result
