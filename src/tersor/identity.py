"""Digests of networks and samples: what was found for one is not taken for that of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def add_model(digest: Any, model: nn.Module) -> None:
    """Adds names, shapes, dtypes and bytes of all parameters and buffers, and the modules' names and classes.

    digest: of `hashlib`. All that a network computes depends on these, but for its code.
    """
    for name, module in model.named_modules():
        digest.update(f"module {name!r} {type(module).__module__}.{type(module).__qualname__}\n".encode())
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        digest.update(f"{name!r} ".encode())
        add_value(digest, tensor)


def add_value(digest: Any, value: Any) -> None:
    """Adds tensors (dtype, shape, bytes), nested in tuples, lists and mappings; plain numbers, texts, dataclasses."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().to("cpu").to_dense().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b"")
    elif isinstance(value, Mapping):
        digest.update(f"mapping of {len(value)}\n".encode())
        for key, part in value.items():
            digest.update(f"{key!r} ".encode())
            add_value(digest, part)
    elif isinstance(value, (tuple, list)):
        digest.update(f"{type(value).__name__} of {len(value)}\n".encode())
        for part in value:
            add_value(digest, part)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)) or dataclasses.is_dataclass(value):
        digest.update(f"{value!r}\n".encode())
    else:
        digest.update(f"{type(value).__qualname__}\n".encode())  # its repr may hold an address
