"""nncodec 2.1.3, the ISO reference codec for neural networks, as a whole: a module in, its file out, and back.

Its `framework` package (data sets, training) imports torchvision, OpenCV and more, none of which coding needs, so an
empty module stands in for it; what codes is nncodec's own `compress` and `decompress`. Around known faults:
- which tensors form a layer is said here, from the modules themselves, instead of guessed from names;
- folding assumes eps = 1e-5 in batch norms: the difference is added to the variances first;
- after folding it leaves the batch norms out and calls their shifts biases of weights: they are put back into neutral
  batch norms, without eps. Layers before batch norms have no biases in the networks measured here.
"""

from __future__ import annotations

import copy
import functools
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_ASSUMED_EPS = 1e-5


@dataclass(frozen=True)
class Settings:
    """What nncodec calls by the same names. The defaults are its own.

    use_dq:       trellis quantization.
    bnf:          batch norms folded into a scale a channel and a bias.
    opt_qp:       steps that depend on the size and spread of each tensor.
    nonweight_qp: step of all vectors; -75 is near lossless, each 4 more doubles the step.
    """

    use_dq: bool = True
    bnf: bool = False
    opt_qp: bool = False
    nonweight_qp: int = -75
    lambda_scale: float = 0
    row_skipping: bool = False
    scan_order: int = 0
    cabac_unary_length_minus1: int = 10
    qp_density: int = 2


def encode(model: nn.Module, qp: int, settings: Settings) -> bytes:
    """The whole file of a model in evaluation mode. A larger `qp` means larger steps."""
    parameters = {
        name: tensor.numpy().astype(np.float32, copy=True)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    if settings.bnf:
        for name, module in _batch_norms(model):
            parameters[f"{name}.running_var"] += np.float32(module.eps - _ASSUMED_EPS)
    options = vars(settings)
    return bytes(
        _codec().compress(
            parameters,
            bitstream_path=None,
            qp=qp,
            block_id_and_param_type=blocks(model),
            return_bitstream=True,
            **options,
        )
    )


def decode(blob: bytes, model: nn.Module, settings: Settings) -> nn.Module:
    """A copy of `model` (as given to `encode`) with the weights that nncodec decodes."""
    parameters: dict[str, NDArray[Any]] = _codec().decompress(bytearray(blob), reconstruct_lsa=settings.bnf)
    state = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in parameters.items()}
    decoded = copy.deepcopy(model)
    if settings.bnf:
        owners = blocks(model)["block_identifier"]
        for name, module in _batch_norms(decoded):
            module.eps = 0.0
            state[f"{name}.bias"] = state.pop(f"{owners[f'{name}.bias']}.weight.bias")
            for part, value in (("weight", 1.0), ("running_mean", 0.0), ("running_var", 1.0)):
                state[f"{name}.{part}"] = torch.full((module.num_features,), value)
    result = decoded.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
    return decoded


def blocks(model: nn.Module) -> dict[str, dict[str, str | None]]:
    """nncodec's description of layers: a block is a weight with its bias and the batch norm after it.

    A batch norm belongs to the last weight registered before it that has as many outputs and no batch norm yet: true of
    the networks measured here, and it is checked that each batch norm finds one.
    """
    identifiers: dict[str, str | None] = {}
    types_: dict[str, str] = {}
    free: dict[str, int] = {}
    parts = {"weight": "bn.gamma", "bias": "bn.beta", "running_mean": "bn.mean", "running_var": "bn.var"}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            owner = [weight for weight, outputs in free.items() if outputs == module.num_features][-1]
            del free[owner]
            for part, kind in parts.items():
                identifiers[f"{name}.{part}"], types_[f"{name}.{part}"] = owner, kind
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            identifiers[f"{name}.weight"], types_[f"{name}.weight"] = name, "weight"
            free[name] = module.weight.shape[0]
            if module.bias is not None:
                identifiers[f"{name}.bias"], types_[f"{name}.bias"] = name, "bias"
    return {"block_identifier": identifiers, "parameter_type": types_}


def _batch_norms(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@functools.cache
def _codec() -> types.ModuleType:
    """`nncodec.nnc.compression`, imported without its data sets and trainers."""
    stand_in = types.ModuleType("nncodec.framework")
    for name in ("tensorflow_model", "pytorch_model", "use_case_init"):
        setattr(stand_in, name, None)
    sys.modules.setdefault("nncodec.framework", stand_in)
    from nncodec.nnc import compression

    return compression
