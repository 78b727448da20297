"""Products: linear layers, embeddings, einsum, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from tersor.structure.labels import Factor, Labels, aligned, along, fix, moved, separate, simplified, with_dim
from tersor.structure.rules import Context, Result, argument, operation, rule, shape_of, unlabelled


def product(context: Context, node: fx.Node, operands: Sequence[Labels], letters: Sequence[str], out: str) -> Labels:
    """Labels of a sum of products, written as einsum does: one letter for each dimension.

    Dimensions of one letter are united. A letter that `out` lacks is summed over: removing its positions changes
    nothing where one of the factors is zero there; otherwise it is frozen.
    """
    parts = list(operands)
    shared = [c for c in sorted(set("".join(letters))) if sum(c in word for word in letters) > 1]
    for c in sorted(shared, key=lambda c: (c not in out, c)):
        _join(context, node, parts, letters, c, summed=c not in out)
    for i, word in enumerate(letters):
        for c in sorted(set(word) - set(out) - set(shared)):
            parts[i] = context.fix(parts[i], word.index(c), node, "it is summed over")
    factors: dict[tuple[int, ...], Factor] = {}
    for part, word in zip(parts, letters, strict=True):
        for factor in part.factors:
            if all(word[d] in out for d in factor.dims):
                dims = tuple(out.index(word[d]) for d in factor.dims)
                known = factors.get(tuple(sorted(dims)))
                zero = factor.zero or (known is not None and known.zero)
                made = simplified(context.units, dims, factor.atoms, zero)
                factors.update({f.dims: f for f in made})
    sizes = {c: max(p.shape[w.index(c)] for p, w in zip(parts, letters, strict=True) if c in w) for c in out}
    return Labels(tuple(sizes[c] for c in out), tuple(factors.values()), weight=all(o.weight for o in operands))


def _join(context: Context, node: fx.Node, parts: list[Labels], letters: Sequence[str], c: str, summed: bool) -> None:
    """Unites a letter's dimensions, in place. What spreads over several dimensions is settled: along the letter
    where it is one of the result's (heads), across it where it is summed over (the size of a head)."""
    where = [(i, word.index(c)) for i, word in enumerate(letters) if c in word]
    reason = context.reason(node, "it is multiplied with positions that stay")
    for i, d in where:
        factor = parts[i].factor(d)
        if factor is not None and len(factor.dims) > 1 and summed:
            context.units.set_kind(factor.atoms.reshape(-1), "head")
            parts[i] = fix(context.units, parts[i], d, reason)
        elif factor is not None and not summed:
            parts[i] = separate(context.units, parts[i], d, reason)
            if not any(part.weight for part in parts):
                context.units.set_kind(along(parts[i], d), "head")
    where = [(i, d) for i, d in where if parts[i].shape[d] > 1]
    factors = [parts[i].factor(d) for i, d in where]
    if summed and any(factors) and not any(part.weight for part in parts):
        reason = context.reason(node, "it is summed over between activations, with a scale that may depend on its size")
        factors = [None]
    if any(f is None for f in factors):
        for i, d in where:
            parts[i] = fix(context.units, parts[i], d, reason)
        return
    if summed and not any(f.zero for f in factors if f is not None):
        for i, d in where:
            parts[i] = context.fix(parts[i], d, node, "it is summed over, and what is removed does not become zero")
        return
    for i, d in where:
        context.units.unite(along(parts[where[0][0]], where[0][1]), along(parts[i], d), reason)


def _roles(context: Context, weight: Labels, inputs: int | None, outputs: int | None) -> None:
    if inputs is not None:
        context.role(weight, inputs, "input")
    if outputs is not None:
        context.role(weight, outputs, "output")


def _letters(rank: int) -> str:
    return "ABCDEFGHIJKLMNOP"[:rank]


@rule("linear")
def _linear(context: Context, node: fx.Node) -> Result:
    x, weight = context.of(node.args[0]), context.of(node.args[1])
    batch = _letters(len(x.shape) - 1)
    if len(weight.shape) == 2:
        _roles(context, weight, 1, 0)
        result = product(context, node, [x, weight], [batch + "i", "oi"], batch + "o")
    else:
        result = product(context, node, [x, weight], [batch + "i", "i"], batch)
    return _biased(context, node, result, argument(node, "bias"))


def _biased(context: Context, node: fx.Node, result: Labels, bias: Any) -> Labels:
    if bias is None:
        return result
    reason = context.reason(node, "it meets positions that stay")
    return aligned(context.units, [result, context.of(bias)], result.shape, reason)


@rule("mm", "bmm", "matmul", "mv", "dot", "__matmul__")
def _matmul(context: Context, node: fx.Node) -> Result:
    return _matrix_product(context, node, context.of(node.args[0]), context.of(node.args[1]))


@rule("addmm", "baddbmm", "addbmm")
def _addmm(context: Context, node: fx.Node) -> Result:
    if operation(node) == "addbmm":
        context.freeze(node.args, node, "there is no rule for this operation")
        return unlabelled(node)
    result = _matrix_product(context, node, context.of(node.args[1]), context.of(node.args[2]))
    return _biased(context, node, result, node.args[0])


def _matrix_product(context: Context, node: fx.Node, a: Labels, b: Labels) -> Labels:
    rank = max(len(a.shape), len(b.shape), 2)
    batch = _letters(rank - 2)
    first = "k" if len(a.shape) == 1 else batch[rank - len(a.shape) :] + "mk"
    second = "k" if len(b.shape) == 1 else batch[rank - len(b.shape) :] + "kn"
    out = batch + "m" * (len(a.shape) > 1) + "n" * (len(b.shape) > 1)
    if b.weight:
        _roles(context, b, second.index("k"), second.index("n") if "n" in second else None)
    elif a.weight:
        _roles(context, a, first.index("k"), first.index("m") if "m" in first else None)
    return product(context, node, [a, b], [first, second], out)


@rule("einsum")
def _einsum(context: Context, node: fx.Node) -> Result:
    equation = str(node.args[0]).replace(" ", "")
    operands = [context.of(v) for v in node.args[1]]  # type: ignore[union-attr]
    words, arrow, out = equation.partition("->")
    letters = words.split(",")
    simple = arrow and "." not in equation and len(letters) <= 2
    if not simple or any(len(set(word)) != len(word) for word in [*letters, out]):
        context.freeze(node.args, node, "this form of einsum is not followed")
        return unlabelled(node)
    for labels, word in zip(operands[1:], letters[1:], strict=True):
        for d, c in enumerate(word):
            context.role(labels, d, "output" if c in out else "input")
    return product(context, node, operands, letters, out)


@rule("embedding")
def _embedding(context: Context, node: fx.Node) -> Result:
    table = context.of(node.args[0])
    table = context.fix(table, 0, node, "rows are looked up by number")
    context.role(table, 1, "output")
    shape = shape_of(node)
    return moved(table, shape, {1: len(shape) - 1}) if table.factors else Labels(shape)


@rule("scaled_dot_product_attention")
def _attention(context: Context, node: fx.Node) -> Result:
    """Heads live together in queries, keys and values; the size of a head stays, and so do the positions."""
    query, key, value = (context.of(v) for v in node.args[:3])
    # The size of a head is one number for all three in most programs.
    for part in (query, key, value):
        factor = part.factor(-1)
        if factor is not None and len(factor.dims) > 1:
            context.units.set_kind(factor.atoms.reshape(-1), "head")
    why = "the scale depends on the size of a head"
    query, key, value = (context.fix(p, -1, node, why) for p in (query, key, value))
    if len(query.shape) > 2 and query.shape[-3] != key.shape[-3]:
        key, value = (_repeated_heads(context, node, p, query.shape[-3]) for p in (key, value))
    rank = len(query.shape)
    batch = _letters(rank - 2)
    words = [batch[rank - len(p.shape) :] for p in (query, key, value)]
    scores = product(context, node, [query, key], [words[0] + "le", words[1] + "se"], batch + "ls")
    mask = argument(node, "attn_mask")
    if mask is not None:
        reason = context.reason(node, "it meets positions that stay")
        scores = aligned(context.units, [scores, context.of(mask)], scores.shape, reason)
    scores = context.fix(scores, -1, node, "attention weights sum to one over it")
    value = context.fix(value, -2, node, "attention weights sum to one over it")
    return product(context, node, [scores.with_zero(False), value], [batch + "ls", words[2] + "sv"], batch + "lv")


def _repeated_heads(context: Context, node: fx.Node, labels: Labels, heads: int) -> Labels:
    """Grouped queries: each head of keys and values serves as many neighbouring heads of queries."""
    factor = labels.factor(-3)
    labels = separate(context.units, labels, -3, context.reason(node, "heads are repeated"))
    atoms = np.repeat(along(labels, -3), heads // labels.shape[-3])
    return with_dim(labels, -3, atoms, factor is None or factor.zero)
