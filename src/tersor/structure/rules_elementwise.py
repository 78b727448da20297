"""Elementwise operations, and tensors made of nothing: positions that meet live together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from tersor.structure.labels import Labels, aligned, moved
from tersor.structure.rules import Context, Result, argument, operation, rule, shape_of, unlabelled

_ZERO_STAYS = (
    "relu relu6 gelu silu mish tanh elu selu celu leaky_relu hardswish softshrink hardshrink tanhshrink sin sinh "
    "asinh asin tan atan erf abs neg sqrt square sign sgn floor ceil round trunc expm1 log1p nan_to_num clone "
    "contiguous detach to _to_copy alias dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout "
    "lift_fresh_copy lift_fresh positive type_as float double half bfloat16 deg2rad softsign rrelu zero"
)
_ZERO_GOES = (
    "sigmoid hardsigmoid exp exp2 log log2 log10 rsqrt reciprocal cos cosh softplus log_sigmoid erfc isnan isinf "
    "isfinite logical_not bitwise_not acos lgamma logit threshold polygamma digamma"
)


def pointwise(context: Context, node: fx.Node, values: Sequence[Any], zero: str = "all") -> Labels:
    """Labels of values that meet position by position. `zero` as in `aligned`; "none": removed ones are not zero."""
    operands = [context.of(v) for v in values if not _is_zero(v)]
    reason = context.reason(node, "it meets positions that stay")
    result = aligned(context.units, operands, shape_of(node), reason, "all" if zero == "none" else zero)
    return result.with_zero(False) if zero == "none" else result


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


@rule(_ZERO_STAYS)
def _unary(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:1])


@rule(_ZERO_GOES)
def _unary_not_zero(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:1], "none")


@rule("clamp", "clip", "hardtanh", "clamp_min", "clamp_max")
def _clamp(context: Context, node: fx.Node) -> Result:
    low, high = (argument(node, a, argument(node, b)) for a, b in (("min", "min_val"), ("max", "max_val")))
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return pointwise(context, node, [v for v in (node.args[0], low, high) if v is not None], "none")
    zero = (low is None or low <= 0) and (high is None or high >= 0)
    return pointwise(context, node, node.args[:1], "all" if zero else "none")


@rule("pow", "float_power")
def _pow(context: Context, node: fx.Node) -> Result:
    exponent = node.args[1]
    zero = isinstance(exponent, (int, float)) and exponent > 0
    return pointwise(context, node, node.args[:2], "first" if zero else "none")


@rule("add", "sub", "rsub", "subtract", "maximum", "minimum", "hypot", "copy", "fmax", "fmin")
def _sum(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:2])


@rule("mul", "multiply", "logical_and", "bitwise_and", "__and__")
def _product(context: Context, node: fx.Node) -> Result:
    if any(_is_zero(v) for v in node.args[:2]):
        return context.of(node.args[0])
    return pointwise(context, node, node.args[:2], "any")


@rule("div", "divide", "true_divide", "fmod", "remainder", "floor_divide", "atan2")
def _quotient(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:2], "first")


@rule("eq", "ne", "lt", "le", "gt", "ge", "logical_or", "logical_xor", "bitwise_or", "__or__", "isclose", "bitwise_xor")
def _comparison(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:2], "none")


@rule("addcmul", "addcdiv", "lerp")
def _ternary(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:3])


@rule("where")
def _where(context: Context, node: fx.Node) -> Result:
    """Zero where both choices are; the condition may be anything."""
    if len(node.args) < 3:
        context.freeze(node.args, node, "positions depend on values")
        return unlabelled(node)
    chosen = pointwise(context, node, node.args[1:3])
    condition = replace(context.of(node.args[0]), weight=True)
    reason = context.reason(node, "it meets positions that stay")
    zero = bool(chosen.factors) and all(f.zero for f in chosen.factors)
    return aligned(context.units, [chosen, condition], shape_of(node), reason).with_zero(zero)


@rule("masked_fill")
def _masked_fill(context: Context, node: fx.Node) -> Result:
    zero = "first" if _is_zero(node.args[2]) else "none"
    return pointwise(context, node, node.args[:2], zero)


@rule("fill")
def _fill(context: Context, node: fx.Node) -> Result:
    return pointwise(context, node, node.args[:1], "all" if _is_zero(node.args[1]) else "none")


@rule("prelu")
def _prelu(context: Context, node: fx.Node) -> Result:
    """One slope for all, or one for each channel (dimension 1)."""
    x, slope = context.of(node.args[0]), context.of(node.args[1])
    rank = len(x.shape)
    shape = tuple(slope.shape[0] if d == 1 and slope.shape else 1 for d in range(rank))
    slope = moved(slope, shape, {0: 1} if slope.shape and rank > 1 else {})
    reason = context.reason(node, "it meets positions that stay")
    return aligned(context.units, [x, slope], x.shape, reason, "first")


@rule("zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor")
@rule("zeros_like ones_like full_like empty_like")
def _constant(context: Context, node: fx.Node) -> Result:
    """The same value everywhere: its sizes follow those of what it meets."""
    shape, name = shape_of(node), operation(node)
    fill = node.args[1] if name in ("full", "full_like") else node.args[2] if name == "new_full" else None
    zero = "zeros" in name or (fill is not None and _is_zero(fill))
    return context.made(shape, Labels(shape, weight=True), range(len(shape)), zero)


@rule("arange", "linspace", "eye", "rand", "randn", "rand_like", "randn_like", "bernoulli", "tril_indices")
def _made(context: Context, node: fx.Node) -> Result:
    context.freeze(node.args, node, "its values depend on positions")
    return unlabelled(node)
