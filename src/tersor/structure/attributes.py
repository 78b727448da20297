"""The integers of torch's own modules that follow from the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from tersor.errors import StructureError
from tersor.structure.edits import Keys

LocalCuts = Mapping[tuple[str, int], tuple[int, tuple[int, ...]]]
"""(the module's own name of a tensor, dimension) -> (size before, positions that go)."""

_SIMPLE: tuple[tuple[type[nn.Module], dict[tuple[str, int], str]], ...] = (
    (nn.Linear, {("weight", 0): "out_features", ("weight", 1): "in_features"}),
    (nn.Bilinear, {("weight", 0): "out_features", ("weight", 1): "in1_features", ("weight", 2): "in2_features"}),
    (nn.Embedding, {("weight", 0): "num_embeddings", ("weight", 1): "embedding_dim"}),
    (nn.EmbeddingBag, {("weight", 0): "num_embeddings", ("weight", 1): "embedding_dim"}),
    (nn.PReLU, {("weight", 0): "num_parameters"}),
    (_NormBase, {(name, 0): "num_features" for name in ("weight", "bias", "running_mean", "running_var")}),
    (RNNCellBase, {("weight_ih", 1): "input_size", ("weight_hh", 1): "hidden_size"}),
)


def standard_integers(module: nn.Module, cuts: LocalCuts) -> dict[Keys, int]:
    """The integers that `module` must hold once its tensors are cut; none for modules of other kinds than torch's.

    StructureError where the cuts leave no module of this kind: groups of a grouped convolution of different sizes,
    say, or layers of a recurrent network.
    """
    left = {key: size - len(removed) for key, (size, removed) in cuts.items()}
    if isinstance(module, _ConvNd):
        return _convolution(module, cuts, left)
    if isinstance(module, nn.GroupNorm):
        return _group_norm(module, cuts, left)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {("normalized_shape", dim): size for (_, dim), size in left.items()}
    if isinstance(module, RNNBase):
        return _recurrent(module, left)
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, cuts, left)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of the transformers library: weight (in, out)
        names = {("weight", 0): "nx", ("weight", 1): "nf"}
        return {(names[key],): size for key, size in left.items() if key in names and hasattr(module, names[key])}
    for kind, names in _SIMPLE:
        if isinstance(module, kind):
            return {(names[key],): size for key, size in left.items() if key in names}
    return {}


def groups_left(size: int, removed: tuple[int, ...], groups: int) -> int:
    """How many of `groups` equal blocks of positions keep some; StructureError unless those keep as many each."""
    block = size // groups
    gone = [0] * groups
    for position in removed:
        gone[position // block] += 1
    kept = {block - count for count in gone if count < block}
    if len(kept) > 1:
        raise StructureError(
            f"its {groups} groups of {block} channels would keep {min(kept)} to {max(kept)}; all must keep as many"
        )
    return sum(count < block for count in gone)


def _convolution(module: _ConvNd, cuts: LocalCuts, left: Mapping[tuple[str, int], int]) -> dict[Keys, int]:
    """A weight is (out, in / groups, ...), that of a transposed convolution (in, out / groups, ...).

    The dimension in groups says how many groups are left: whole ones go, or as many channels of each.
    """
    transposed = isinstance(module, _ConvTransposeNd)
    names = ("in_channels", "out_channels") if transposed else ("out_channels", "in_channels")
    groups = module.groups
    if ("weight", 0) in cuts:
        groups = groups_left(*cuts["weight", 0], module.groups)
    blocked = left.get(("weight", 0), getattr(module, names[0]))
    inside = left.get(("weight", 1), getattr(module, names[1]) // module.groups)
    wanted = {"groups": groups, names[0]: blocked, names[1]: inside * groups}
    return {(name,): value for name, value in wanted.items() if getattr(module, name) != value}


def _group_norm(module: nn.GroupNorm, cuts: LocalCuts, left: Mapping[tuple[str, int], int]) -> dict[Keys, int]:
    key = next(iter(cuts))
    return {("num_channels",): left[key], ("num_groups",): groups_left(*cuts[key], module.num_groups)}


def _recurrent(module: RNNBase, left: Mapping[tuple[str, int], int]) -> dict[Keys, int]:
    """One hidden size counts for all layers and directions: each must lose as many units."""
    layers = [
        f"l{layer}{direction}"
        for layer in range(module.num_layers)
        for direction in (("", "_reverse") if module.bidirectional else ("",))
    ]
    recurrent, projected = "weight_hr" if module.proj_size else "weight_hh", bool(module.proj_size)
    wanted: dict[Keys, int] = {}
    for attribute, kind, dim in [
        ("hidden_size", recurrent, 1),
        *([("proj_size", recurrent, 0)] if projected else []),
    ]:
        sizes = {left.get((f"{kind}_{layer}", dim), getattr(module, attribute)) for layer in layers}
        if len(sizes) > 1:
            raise StructureError(
                f"its layers and directions would have a {attribute} of {min(sizes)} to {max(sizes)}; "
                "remove as many units of each"
            )
        wanted[attribute,] = sizes.pop()
    wanted["input_size",] = left.get(("weight_ih_l0", 1), module.input_size)
    return {keys: value for keys, value in wanted.items() if getattr(module, str(keys[0])) != value}


def _attention(module: nn.MultiheadAttention, cuts: LocalCuts, left: Mapping[tuple[str, int], int]) -> dict[Keys, int]:
    """Heads go as a whole (fewer of them), or as many positions of each (narrower ones)."""
    wanted: dict[Keys, int] = {}
    for name, attribute in (("q_proj_weight", "embed_dim"), ("k_proj_weight", "kdim"), ("v_proj_weight", "vdim")):
        if (name, 1) in left:
            wanted[attribute,] = left[name, 1]
    if ("in_proj_weight", 1) in left:
        wanted["embed_dim",] = wanted["kdim",] = wanted["vdim",] = left["in_proj_weight", 1]
    inner = "in_proj_weight" if ("in_proj_weight", 0) in cuts else "q_proj_weight"
    if (inner, 0) in cuts:
        parts = 3 if inner == "in_proj_weight" else 1
        heads = groups_left(*cuts[inner, 0], parts * module.num_heads)
        wanted["num_heads",] = heads // parts
        wanted["head_dim",] = left[inner, 0] // heads
    return wanted
