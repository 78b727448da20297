"""Torch-Pruning 1.6.1 (Fang et al. 2023, DepGraph) on networks of the zoo: what its examples do by hand is done for it.

Its examples leave output layers alone, name the projections of attention with their number of heads, and correct the
networks' attributes afterwards. Two ways of treating heads are tried (narrower heads, fewer heads); the first that
gives a working network counts. Its result is not held against a masked network: a forward pass and a training step
are enough.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_HEADS = ("num_heads", "n_head", "n_heads", "num_attention_heads")
_KV_HEADS = ("num_kv_heads", "num_key_value_heads")
_WIDTHS = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")
_INNER = ("split_size", "n_embd", "all_head_size", "inner_dim", "embed_dim")
_KEYS = ("k_proj", "v_proj")
_OUTPUTS = ("proj", "o_proj", "out_proj", "c_proj", "o", "out")
_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def prune(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], share: float) -> nn.Module:
    """A copy of `model` without that share of its channels, by L1. Raises what the last way that was tried raised."""
    error: Exception | None = None
    for fewer_heads in (False, True):
        candidate = copy.deepcopy(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _pruned(candidate, args, kwargs, share, fewer_heads)
            with torch.no_grad():
                candidate(*args, **kwargs)
        except Exception as caught:  # noqa: BLE001 - whatever a rival raises is a failure of this way
            error = caught
            continue
        return candidate
    assert error is not None
    raise error


def _pruned(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], share: float, fewer_heads: bool) -> None:
    import torch_pruning

    with torch.no_grad():
        output = model(*args, **kwargs)
    heads = {layer: count for _, layer, count in _projections(model)}
    pruner = torch_pruning.pruner.BasePruner(
        model,
        kwargs or args,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=share,
        ignored_layers=_output_layers(model, output),
        num_heads=heads,
        prune_num_heads=fewer_heads,
        prune_head_dims=not fewer_heads,
        head_pruning_ratio=share,
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()
    _correct(model, pruner.num_heads)


def _output_layers(model: nn.Module, output: Tensor) -> list[nn.Module]:
    """Layers that give as many numbers as the network does: classes or tokens."""
    classes = output.shape[1] if output.dim() == 4 else output.shape[-1]
    sizes = {"out_features", "out_channels"}
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, _LAYERS) and classes in {getattr(layer, size, None) for size in sizes}
    ]


def _projections(model: nn.Module) -> list[tuple[nn.Module, nn.Module, int]]:
    """(attention, a projection to queries, keys or values, its heads)."""
    found = []
    for module in model.modules():
        heads = _integer(module, _HEADS)
        if heads is None:
            continue
        if isinstance(module, nn.MultiheadAttention):
            found.append((module, module, heads))
            continue
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear) and name not in _OUTPUTS:
                shared = _integer(module, _KV_HEADS) if name in _KEYS else None
                found.append((module, layer, shared or heads))
    return found


def _integer(module: nn.Module, names: tuple[str, ...]) -> int | None:
    values = [getattr(module, name, None) for name in names]
    return next((value for value in values if isinstance(value, int)), None)


def _correct(model: nn.Module, heads: Mapping[nn.Module, int]) -> None:
    """Attributes of attention that follow from the projections' sizes."""
    for module, layer, before in _projections(model):
        if layer is module:
            continue
        name = next(name for name, child in module.named_children() if child is layer)
        left = heads.get(layer, before)
        fused = 3 if name in ("qkv", "c_attn") else 1
        inner = layer.out_features // fused
        if name in _KEYS and _integer(module, _KV_HEADS) is not None:
            _set(module, _KV_HEADS, left)
            continue
        _set(module, _HEADS, left)
        _set(module, _WIDTHS, inner // left)
        _set(module, _INNER, inner)


def _set(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)
