"""Convolutions, pooling and resizing. I, O: channels read and made; G: groups."""

from __future__ import annotations

import numpy as np
from torch import fx

from tersor.structure.labels import Factor, Labels, along, fix, separate
from tersor.structure.rules import Context, Result, argument, operation, rule, shape_of, unlabelled
from tersor.structure.units import Atoms


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def _convolution(context: Context, node: fx.Node) -> Result:
    """Weight O x I/G x kernel; transposed I x O/G x kernel."""
    x, weight = context.of(node.args[0]), context.of(node.args[1])
    turned = "transpose" in operation(node) or bool(argument(node, "transposed", False))
    spatial = len(weight.shape) - 2
    channel = len(x.shape) - spatial - 1
    x = context.fix(x, range(channel + 1, len(x.shape)), node, "a kernel slides over it")
    reason = context.reason(node, "channels meet positions that stay")
    x = separate(context.units, x, channel, reason)
    for d in range(2, len(weight.shape)):
        weight = fix(context.units, weight, d, "")
    weight = separate(context.units, separate(context.units, weight, 0, reason), 1, reason)
    context.role(weight, 0, "input" if turned else "output")
    context.role(weight, 1, "output" if turned else "input")
    connect = _transposed if turned else _plain
    made = connect(context, along(x, channel), along(weight, 0), along(weight, 1), argument(node, "groups", 1), reason)
    bias = argument(node, "bias")
    if bias is not None:
        context.units.unite(made, along(context.of(bias), 0), reason)
    factors = tuple(f for f in x.factors if max(f.dims) < channel)
    if made.any() and made.size > 1:
        factors = (*factors, Factor((channel,), made))
    return Labels(shape_of(node), factors)


def _plain(context: Context, x: Atoms, rows: Atoms, columns: Atoms, groups: int, reason: str) -> Atoms:
    """The atoms of the channels made. x: (I,); rows: (O,); columns: (I/G,).

    With one channel a group (depthwise) each channel is a unit with what is made of it. Else position j of every
    group is one unit, on both sides, so that groups stay alike.
    """
    units = context.units
    if groups == 1:
        if x.size > 1:
            units.unite(x, columns, reason)
        return rows
    if columns.size == 1:
        units.unite(x[:, None], rows.reshape(x.size, -1), reason)
        return rows
    units.unite(x.reshape(groups, -1), columns, reason)
    rows_of_groups = rows.reshape(groups, -1)
    units.unite(rows_of_groups, rows_of_groups[:1], reason)
    return rows


def _transposed(context: Context, x: Atoms, rows: Atoms, columns: Atoms, groups: int, reason: str) -> Atoms:
    """As `_plain`. x: (I,); rows: (I,); columns: (O/G,)."""
    units = context.units
    if x.size > 1:
        units.unite(x, rows, reason)
    if groups == 1:
        return columns
    if groups == x.size:
        units.freeze(columns, reason)
        return np.repeat(rows, columns.size)
    units.unite(rows.reshape(groups, -1), rows.reshape(groups, -1)[:1], reason)
    return np.tile(columns, groups)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d")
@rule("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "lp_pool2d")
@rule("max_pool2d_with_indices", "max_pool1d_with_indices", "_adaptive_avg_pool2d", "adaptive_max_pool3d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d")
@rule("upsample_linear1d", "upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa")
def _pooled(context: Context, node: fx.Node) -> Result:
    """The last dimensions, as many as the name says, are pooled; channels pass."""
    x = context.of(node.args[0])
    spatial = next((int(c) for c in operation(node) if c in "123"), 2)
    x = context.fix(x, range(len(x.shape) - spatial, len(x.shape)), node, "it is pooled or resized")
    results = unlabelled(node)
    if isinstance(results, list):
        return [Labels(r.shape, x.factors) for r in results]
    return Labels(results.shape, x.factors)


@rule("grid_sampler")
def _sampled(context: Context, node: fx.Node) -> Result:
    x = context.of(node.args[0])
    x = context.fix(x, range(2, len(x.shape)), node, "positions are sampled from it")
    context.freeze(node.args[1], node, "it says where to sample")
    return Labels(shape_of(node), x.factors)
