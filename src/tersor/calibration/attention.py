"""nn.MultiheadAttention: the inputs of its projections, by a forward pass with the projections pulled out.

Legend: T queries, S keys, B samples, E embedding width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.calibration.features import dense_features
from tersor.calibration.layout import Layout
from tersor.calibration.observer import Observe, Use
from tersor.calibration.products import rows_last

_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def layouts(module: nn.MultiheadAttention) -> dict[str, Layout]:
    """Name and layout of every weight: the three parts of in_proj_weight see different inputs, as groups do."""
    if module.in_proj_weight is not None:
        return {"in_proj_weight": Layout(groups=3), "out_proj.weight": Layout()}
    return {f"{part}_proj_weight": Layout() for part in "qkv"} | {"out_proj.weight": Layout()}


def replay(
    module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any], observe: Observe
) -> tuple[Tensor, Tensor | None]:
    """The module's forward pass, telling `observe` of its four products; returns its output."""
    given = _SIGNATURE.bind(module, *args, **kwargs)
    given.apply_defaults()
    call = given.arguments
    inputs = [call["query"], call["key"], call["value"]]
    unbatched = inputs[0].dim() == 2
    batch_first = module.batch_first and not unbatched
    if batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    q, k, v = (_projected(module, part, x, observe) for part, x in enumerate(inputs))
    mixed, weights = _mixed(module, q, k, v, call)
    y = F.linear(mixed, module.out_proj.weight, module.out_proj.bias)
    y = observe(Use("out_proj.weight", dense_features(_samples_first(mixed.detach())), y, _rows))
    return y.transpose(0, 1) if batch_first else y, weights


def _projected(module: nn.MultiheadAttention, part: int, x: Tensor, observe: Observe) -> Tensor:
    """Query, key or value (part 0, 1, 2): (T, B, inputs) or (T, inputs) -> E outputs."""
    name = f"{'qkv'[part]}_proj_weight"
    together = module.in_proj_weight is not None
    weight = module.in_proj_weight.chunk(3)[part] if together else getattr(module, name)
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[part]
    features = dense_features(_samples_first(x.detach()))
    use = Use("in_proj_weight" if together else name, features, F.linear(x, weight, bias), _rows, part * together)
    return observe(use)


def _mixed(
    module: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, call: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """What the heads give, before the output projection: torch's own attention with identity projections."""
    identity = torch.eye(module.embed_dim, dtype=q.dtype, device=q.device)
    mixed, weights = F.multi_head_attention_forward(
        q, k, v, module.embed_dim, module.num_heads, None, None, module.bias_k, module.bias_v,
        module.add_zero_attn, 0.0, identity, None, training=False,
        key_padding_mask=call["key_padding_mask"], need_weights=call["need_weights"], attn_mask=call["attn_mask"],
        use_separate_proj_weight=True, q_proj_weight=identity, k_proj_weight=identity, v_proj_weight=identity,
        average_attn_weights=call["average_attn_weights"], is_causal=call["is_causal"],
    )  # fmt: skip
    return mixed, weights


def _samples_first(x: Tensor) -> Tensor:
    return x[None] if x.dim() == 2 else x.transpose(0, 1)


def _rows(gradient: Tensor) -> Tensor:
    return rows_last(_samples_first(gradient))
