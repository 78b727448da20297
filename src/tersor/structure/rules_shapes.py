"""Operations that move, join or cut dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from tersor.structure.labels import Factor, Labels, aligned, along, moved, reshaped, separate, simplified, with_dim
from tersor.structure.rules import Context, Result, argument, operation, rule, shape_of, unlabelled
from tersor.structure.units import Atoms


@rule("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as", "ravel")
def _reshape(context: Context, node: fx.Node) -> Result:
    reason = context.reason(node, "it is merged with a larger dimension that can shrink")
    return reshaped(context.units, context.of(node.args[0]), shape_of(node), reason)


@rule("squeeze", "unsqueeze")
def _squeeze(context: Context, node: fx.Node) -> Result:
    return reshaped(context.units, context.of(node.args[0]), shape_of(node), "")


@rule("permute", "transpose", "t", "numpy_T", "mT", "movedim", "swapaxes", "swapdims", "adjoint", "moveaxis")
def _permute(context: Context, node: fx.Node) -> Result:
    x, name = context.of(node.args[0]), operation(node)
    rank = len(x.shape)
    order = list(range(rank))
    if name == "permute":
        order = [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr, arg-type]
    elif name in ("transpose", "swapaxes", "swapdims"):
        a, b = (int(d) % rank for d in node.args[1:3])  # type: ignore[arg-type]
        order[a], order[b] = b, a
    elif name in ("movedim", "moveaxis"):
        order = _moved_order(rank, node.args[1], node.args[2])
    else:
        order[-2:] = order[-2:][::-1]
    return moved(x, shape_of(node), {old: new for new, old in enumerate(order)})


def _moved_order(rank: int, source: object, destination: object) -> list[int]:
    sources, targets = ([d] if isinstance(d, int) else list(d) for d in (source, destination))  # type: ignore[call-overload]
    sources, targets = [s % rank for s in sources], [t % rank for t in targets]
    order = [d for d in range(rank) if d not in sources]
    for target, moving in sorted(zip(targets, sources, strict=True)):
        order.insert(target, moving)
    return order


@rule("expand", "expand_as", "broadcast_to")
def _expand(context: Context, node: fx.Node) -> Result:
    x, shape = context.of(node.args[0]), shape_of(node)
    shift = len(shape) - len(x.shape)
    kept = {d: d + shift for d in range(len(x.shape)) if x.shape[d] == shape[d + shift]}
    new = [d for d in range(len(shape)) if d not in kept.values()]
    return context.made(shape, moved(x, shape, kept), new, zero=False)


@rule("repeat", "tile")
def _repeat(context: Context, node: fx.Node) -> Result:
    x, shape = context.of(node.args[0]), shape_of(node)
    shift = len(shape) - len(x.shape)
    x = moved(x, (1,) * shift + x.shape, {d: d + shift for d in range(len(x.shape))})
    for dim, size in enumerate(shape):
        if x.factor(dim) is not None and size != x.shape[dim]:
            zero = x.factor(dim).zero  # type: ignore[union-attr]
            x = separate(context.units, x, dim, context.reason(node, "it is repeated"))
            x = with_dim(x, dim, np.tile(along(x, dim), size // x.shape[dim]), zero)
    return replace(x, shape=shape)


@rule("repeat_interleave")
def _repeat_interleave(context: Context, node: fx.Node) -> Result:
    x, times, dim = context.of(node.args[0]), argument(node, "repeats"), argument(node, "dim")
    if not isinstance(times, int) or dim is None:
        context.freeze(node.args, node, "it is repeated as values say")
        return unlabelled(node)
    x = separate(context.units, x, dim, context.reason(node, "it is repeated"))
    factor = x.factor(dim)
    return with_dim(x, dim, np.repeat(along(x, dim), times), factor is None or factor.zero)


@rule("cat", "concat", "concatenate")
def _cat(context: Context, node: fx.Node) -> Result:
    """Along the dimension each part keeps its labels; across it positions that meet live together."""
    shape = shape_of(node)
    dim = argument(node, "dim", 0) % len(shape)
    parts = [context.of(p) for p in node.args[0] if shape_of(p) != (0,)]  # type: ignore[union-attr]
    reason = context.reason(node, "it is joined with positions that stay")
    parts = [separate(context.units, p, dim, reason) for p in parts]
    atoms = np.concatenate([along(p, dim) for p in parts])
    zero = all(f.zero for f in (p.factor(dim) for p in parts) if f is not None)
    others = [with_dim(p, dim, np.zeros(1, np.int64)) for p in parts]
    across = aligned(context.units, others, (*shape[:dim], 1, *shape[dim + 1 :]), reason)
    return with_dim(across, dim, atoms, zero)


@rule("stack")
def _stack(context: Context, node: fx.Node) -> Result:
    shape = shape_of(node)
    dim = argument(node, "dim", 0) % len(shape)
    inner = (*shape[:dim], *shape[dim + 1 :])
    parts = [context.of(p) for p in node.args[0]]  # type: ignore[union-attr]
    result = aligned(context.units, parts, inner, context.reason(node, "it is stacked on positions that stay"))
    return moved(result, shape, {d: d + (d >= dim) for d in range(len(inner))})


def cut(context: Context, labels: Labels, dim: int, count: int, reason: str, interleaved: bool = False) -> Labels:
    """The labels of one of `count` equal parts of a dimension; position j of each part is united with the others'."""
    dim = dim % len(labels.shape)
    size = labels.shape[dim] // count
    shape = (*labels.shape[:dim], size, *labels.shape[dim + 1 :])
    factor = labels.factor(dim)
    if factor is None:
        return replace(labels, shape=shape)
    axis = factor.dims.index(dim)
    sizes = (size, count) if interleaved else (count, size)
    atoms = factor.atoms.reshape(*factor.atoms.shape[:axis], *sizes, *factor.atoms.shape[axis + 1 :])
    first = atoms.take([0], axis + interleaved)
    context.units.unite(first, atoms, reason)
    atoms = first.squeeze(axis + interleaved)
    kept = tuple(f for f in labels.factors if f is not factor)
    return replace(labels, shape=shape, factors=(*kept, *simplified(context.units, factor.dims, atoms, factor.zero)))


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def _split(context: Context, node: fx.Node) -> Result:
    """Equal parts shrink together, so that they stay equal; others would need sizes that the program fixes."""
    x = context.of(node.args[0])
    dim = argument(node, "dim", 0) % len(x.shape)
    shapes = [tuple(value.shape) for value in node.meta["val"]]
    if len({shape[dim] for shape in shapes}) == 1:
        part = cut(context, x, dim, len(shapes), context.reason(node, "it is split with positions that stay"))
        return [part] * len(shapes)
    x = context.fix(x, dim, node, "it is split into parts of different sizes")
    return [replace(x, shape=shape) for shape in shapes]


@rule("unbind")
def _unbind(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    dim = argument(node, "dim", 0) % len(x.shape)
    return [_dropped(context, node, x, dim)] * x.shape[dim]


def _dropped(context: Context, node: fx.Node, x: Labels, dim: int) -> Labels:
    """Labels where one position of a dimension is taken."""
    x = context.fix(x, dim, node, "single positions of it are taken")
    rest = [d for d in range(len(x.shape)) if d != dim]
    return moved(x, [x.shape[d] for d in rest], {d: i for i, d in enumerate(rest)})


@rule("select")
def _select(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    return _dropped(context, node, x, argument(node, "dim") % len(x.shape))


@rule("slice", "narrow")
def _slice(context: Context, node: fx.Node) -> Result:
    """A slice is followed where the slices of its tensor are equal parts that cover it."""
    x, shape = context.of(node.args[0]), shape_of(node)
    dim = argument(node, "dim", 0) % len(x.shape)
    if shape[dim] == x.shape[dim] or x.factor(dim) is None:
        return replace(x, shape=shape)
    tiles = _tiles(node, dim, x.shape[dim], shape[dim])
    if tiles is not None:
        reason = context.reason(node, "it is cut from positions that stay")
        return cut(context, x, dim, x.shape[dim] // shape[dim], reason, interleaved=tiles)
    return replace(context.fix(x, dim, node, "a slice of it is taken"), shape=shape)


def _tiles(node: fx.Node, dim: int, size: int, part: int) -> bool | None:
    """Whether the slices of its tensor cover the dimension: in runs (False), interleaved (True), or not (None)."""
    if size % part:
        return None
    count = size // part
    runs: set[int | None] = set()
    steps: set[int | None] = set()
    assert isinstance(node.args[0], fx.Node)
    for user in node.args[0].users:
        same = operation(user) in ("slice", "narrow") and argument(user, "dim", 0) in (dim, dim - len(shape_of(user)))
        if same and shape_of(user)[dim] == part:
            start = argument(user, "start", 0)
            start = start % size if isinstance(start, int) else None
            (runs if argument(user, "step", 1) == 1 else steps).add(start)
    if runs == set(range(0, size, part)):
        return False
    return True if steps == set(range(count)) else None


@rule("roll", "flip")
def _roll(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    dims = node.args[2] if operation(node) == "roll" and len(node.args) > 2 else argument(node, "dims")
    every = range(len(x.shape))
    return context.fix(x, dims or every, node, "its positions are moved round")  # type: ignore[arg-type]


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad(context: Context, node: fx.Node) -> Result:
    """Positions that are put on with a constant stay; the labels between them are followed."""
    x, shape = context.of(node.args[0]), shape_of(node)
    pads = [int(p) for p in node.args[1]]  # type: ignore[union-attr, arg-type]
    constant = operation(node) == "constant_pad_nd" or (
        operation(node) == "pad" and argument(node, "mode", "constant") == "constant"
    )
    for i in range(len(pads) // 2):
        dim, before, after = len(shape) - 1 - i, pads[2 * i], pads[2 * i + 1]
        if (before or after) and x.factor(dim) is not None:
            x = _padded(context, node, x, dim, (before, after) if constant else (-1, -1))
    return replace(x, shape=shape)


def _padded(context: Context, node: fx.Node, x: Labels, dim: int, pads: Sequence[int]) -> Labels:
    if min(pads) < 0:
        return context.fix(x, dim, node, "it is padded with its own values, or cut")
    x = separate(context.units, x, dim, context.reason(node, "it is padded"))
    zero = all(f.zero for f in x.factors if dim in f.dims)
    return with_dim(x, dim, np.pad(along(x, dim), tuple(pads)), zero)


@rule("pixel_shuffle")
def _pixel_shuffle(context: Context, node: fx.Node) -> Result:
    """C*r*r channels become C: those of one pixel block live together."""
    x, shape = context.of(node.args[0]), shape_of(node)
    part = cut(context, x, -3, int(node.args[1]) ** 2, context.reason(node, "it is shuffled"), interleaved=True)  # type: ignore[arg-type]
    part = context.fix(part, (-2, -1), node, "channels become pixels there")
    return replace(part, shape=shape)


@rule("pixel_unshuffle")
def _pixel_unshuffle(context: Context, node: fx.Node) -> Result:
    return _repeated(context, node, int(node.args[1]) ** 2, -3)  # type: ignore[arg-type]


@rule("im2col")
def _im2col(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    return _repeated(context, node, shape_of(node)[-2] // x.shape[-3], -3)


def _repeated(context: Context, node: fx.Node, times: int, dim: int) -> Labels:
    """Each channel becomes `times` neighbouring ones; the pixels stay."""
    x, shape = context.of(node.args[0]), shape_of(node)
    x = context.fix(x, (-2, -1), node, "pixels become channels there")
    x = separate(context.units, x, dim, context.reason(node, "pixels become channels there"))
    at = dim % len(x.shape)
    atoms: Atoms = np.repeat(along(x, dim), times)
    kept = tuple(f for f in x.factors if at not in f.dims and max(f.dims) < len(shape))
    made = (Factor((at,), atoms, all(f.zero for f in x.factors if at in f.dims)),) if atoms.any() else ()
    return Labels(shape, (*kept, *made))


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    groups = argument(node, "groups")
    rest = tuple(x.shape[2:])
    split = reshaped(context.units, x, (x.shape[0], groups, x.shape[1] // groups, *rest), "")
    swap = {0: 0, 1: 2, 2: 1} | {d: d for d in range(3, len(split.shape))}
    turned = moved(split, (x.shape[0], x.shape[1] // groups, groups, *rest), swap)
    return reshaped(context.units, turned, x.shape, "")


@rule("unfold", "diagonal", "tril", "triu", "rot90")
def _positional(context: Context, node: fx.Node) -> Result:
    """Windows and triangles: the dimensions they act on stay."""
    x, shape = context.of(node.args[0]), shape_of(node)
    if operation(node) in ("tril", "triu"):
        return context.fix(x, (-2, -1), node, "what is kept depends on positions")
    if operation(node) == "unfold":
        x = context.fix(x, argument(node, "dimension"), node, "windows are taken from it")
        return Labels(shape, x.factors)
    context.freeze(node.args, node, "what is kept depends on positions")
    return unlabelled(node)
