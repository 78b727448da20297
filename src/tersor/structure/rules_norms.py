"""Normalisations, reductions, and what orders or sums up a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from tersor.structure.labels import Labels, aligned, moved, separate
from tersor.structure.rules import Context, Result, argument, operation, rule, shape_of, unlabelled
from tersor.structure.rules_shapes import cut


def _scaled(context: Context, node: fx.Node, x: Labels, vectors: Sequence[Any], first: int) -> Labels:
    """Labels of x times weight plus bias, vectors over the dimensions of x from `first` on."""
    reason = context.reason(node, "it meets positions that stay")
    parts = [context.of(v) for v in vectors if v is not None]
    rank = len(x.shape)
    placed = []
    for part in parts:
        shape = [1] * rank
        shape[first : first + len(part.shape)] = part.shape
        placed.append(moved(part, shape, {d: d + first for d in range(len(part.shape))}))
    return aligned(context.units, [x, *placed], x.shape, reason, "any" if parts else "all")


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(context: Context, node: fx.Node) -> Result:
    """Statistics of each channel by itself (dimension 1)."""
    x = context.of(node.args[0])
    names = ("weight", "bias", "running_mean", "running_var")
    rest = range(2, len(x.shape)) if operation(node) == "instance_norm" else ()
    x = context.fix(x, rest, node, "statistics are taken over it")
    result = _scaled(context, node, x, [argument(node, n) for n in names], 1)
    several = unlabelled(node)
    return [result, *several[1:]] if isinstance(several, list) else result


@rule("layer_norm", "rms_norm", "native_layer_norm")
def _layer_norm(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    count = len(argument(node, "normalized_shape"))
    rank = len(x.shape)
    x = context.normalise(node, x, range(rank - count, rank))
    vectors = [argument(node, n) for n in ("weight", "bias")]
    # Without weight and bias a removed channel becomes (0 - mean) / deviation.
    x = x.with_zero(vectors[0] is not None or (operation(node) == "rms_norm"))
    result = _scaled(context, node, x, vectors, rank - count)
    several = unlabelled(node)
    return [result, *several[1:]] if isinstance(several, list) else result


@rule("group_norm")
def _group_norm(context: Context, node: fx.Node) -> Result:
    """Position j of every group is one unit, so that groups stay alike."""
    x, groups = context.of(node.args[0]), argument(node, "num_groups")
    reason = context.reason(node, "channels meet positions that stay")
    x = context.fix(x, range(2, len(x.shape)), node, "statistics are taken over it")
    x = separate(context.units, x, 1, reason)
    cut(context, x, 1, groups, reason)
    x = context.normalise(node, x, range(1, len(x.shape)))
    vectors = [argument(node, n) for n in ("weight", "bias")]
    return _scaled(context, node, x.with_zero(vectors[0] is not None), vectors, 1)


def _reduced(node: fx.Node, rank: int) -> list[int]:
    dims = argument(node, "dim", argument(node, "axis"))
    if dims is None or dims == []:
        return list(range(rank))
    return sorted(int(d) % rank for d in ([dims] if isinstance(dims, int) else dims)) if rank else []


def _without(node: fx.Node, x: Labels, dims: Sequence[int]) -> Result:
    """Labels of what is left after these dimensions are reduced (they are not labelled any more)."""
    rest = [d for d in range(len(x.shape)) if d not in dims]
    x = replace(x, factors=tuple(f for f in x.factors if not set(f.dims) & set(dims)))

    def of(shape: tuple[int, ...]) -> Labels:
        kept = {d: d if len(shape) == len(x.shape) else i for i, d in enumerate(rest)}
        return moved(x, shape, kept)

    found = unlabelled(node)
    return [of(r.shape) for r in found] if isinstance(found, list) else of(found.shape)


@rule("mean", "var", "std", "var_mean", "std_mean")
def _mean(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    dims = _reduced(node, len(x.shape))
    return _without(node, context.normalise(node, x, dims), dims)


@rule("sum", "norm", "linalg_vector_norm")
def _sum(context: Context, node: fx.Node) -> Result:
    """Zeros add nothing; what is removed and does not become zero would."""
    x = context.of(node.args[0])
    dims = _reduced(node, len(x.shape))
    for factor in x.factors:
        inside = [d for d in factor.dims if d in dims]
        if inside and (not factor.zero or len(inside) < len(factor.dims)):
            x = context.fix(x, inside, node, "it is summed over")
    return _without(node, x, dims)


@rule("amax", "amin", "max", "min", "prod", "argmax", "argmin", "any", "all", "logsumexp", "median", "mode", "aminmax")
def _extreme(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    if operation(node) in ("max", "min") and len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        reason = context.reason(node, "it meets positions that stay")
        return aligned(context.units, [x, context.of(node.args[1])], shape_of(node), reason)
    dims = _reduced(node, len(x.shape))
    return _without(node, context.fix(x, dims, node, "its largest or smallest is taken"), dims)


@rule("softmax _softmax log_softmax _log_softmax softmin cumsum cumprod logcumsumexp sort argsort")
def _along(context: Context, node: fx.Node) -> Result:
    """Positions of the dimension depend on each other; the others pass."""
    x = context.of(node.args[0])
    x = context.fix(x, argument(node, "dim", -1), node, "its positions depend on each other")
    x = x.with_zero(operation(node) == "cumsum")
    found = unlabelled(node)
    return [replace(x, shape=r.shape) for r in found] if isinstance(found, list) else x


@rule("topk", "kthvalue")
def _chosen(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    dim = argument(node, "dim", -1)
    x = context.fix(x, dim, node, "some of its positions are chosen")
    found = unlabelled(node)
    return [replace(x.with_zero(False), shape=r.shape) for r in found]  # type: ignore[union-attr]


@rule("glu")
def _glu(context: Context, node: fx.Node) -> Result:
    """Halves are united by index."""
    x = context.of(node.args[0])
    return cut(context, x, argument(node, "dim", -1), 2, context.reason(node, "it is gated by positions that stay"))


@rule("index_select")
def _index_select(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    context.freeze(node.args[2], node, "it says which positions are taken")
    x = context.fix(x, argument(node, "dim"), node, "positions are taken by number")
    return replace(x, shape=shape_of(node))


@rule("index")
def _index(context: Context, node: fx.Node) -> Result:
    """Leading dimensions taken by one tensor of numbers; other forms are frozen."""
    x, shape = context.of(node.args[0]), shape_of(node)
    indices = list(node.args[1])  # type: ignore[arg-type]
    given = [d for d, i in enumerate(indices) if i is not None]
    context.freeze(indices, node, "it says which positions are taken")
    x = context.fix(x, given, node, "positions are taken by number")
    apart = given != list(range(given[0], given[-1] + 1)) if given else True
    if apart or any(shape_of(indices[d]) and indices[d].meta["val"].dtype.is_floating_point for d in given):
        context.freeze(node.args[0], node, "positions are taken by number")
        return unlabelled(node)
    grown = len(shape) - (len(x.shape) - len(given))
    kept = {d: d if d < given[0] else d - len(given) + grown for d in range(len(x.shape)) if d not in given}
    return moved(x, shape, kept)


@rule("_weight_norm")
def _weight_norm(context: Context, node: fx.Node) -> Result:
    """w = g v / |v|, the norm over all dimensions but one; a removed row would be 0 / 0."""
    context.freeze(node.args, node, "rows are divided by their norm")
    return unlabelled(node)
