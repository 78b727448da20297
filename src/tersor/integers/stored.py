"""An integer network from a .tsr file, into its original class."""

from __future__ import annotations

import copy
import os
from typing import IO

import torch
from torch import nn

from tersor.container.reader import Reader
from tersor.errors import MismatchError, UsageError
from tersor.integers.plan import NAME, Plan, assemble
from tersor.structure import manifest
from tersor.structure.carried import rebuild
from tersor.tensors import Uniform


def load_int8(path: str | os.PathLike[str] | IO[bytes], model: nn.Module, *, max_bytes: int | None = None) -> nn.Module:
    """The integer network that `Integers.compressed()` was saved from, to the bit.

    model: a fresh network of the original class, whatever was removed of it; it is not changed.
    max_bytes: refuses files whose tensors take more.
    Raises UsageError if `model` is no nn.Module, InputError for an unreadable path, CorruptFileError for a damaged
    file, MismatchError for a file without an integer network, or of another class.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"load_int8 takes a fresh nn.Module of the original class, got {type(model).__name__}")
    with Reader(path, max_bytes=max_bytes) as reader:
        attached = [attachment.name for attachment in reader.index.attachments]
        if NAME not in attached:
            raise MismatchError(f"{reader.name}: it holds no integer network; tersor.load reads its tensors")
        plan = Plan.from_json(reader.attachment(NAME))
        found = {name: reader.read(name) for name in reader.names()}
        own = copy.deepcopy(model).eval()
        if manifest.NAME in attached:
            rebuild(own, manifest.Manifest.from_json(reader.attachment(manifest.NAME)))
        state = own.state_dict()
        wrong = sorted({*state} ^ {*found}) or [n for n in state if state[n].shape != found[n].shape]
        if wrong:
            raise MismatchError(f"{reader.name}: its tensors are not the model's; {wrong[0]!r} is one that differs")
        with torch.no_grad():
            for name, tensor in state.items():
                if not plan.codes(name):  # whose floats may be tied to those of an embedding
                    tensor.copy_(found[name].dequantize())
        weights = {n: tensor for n, tensor in found.items() if plan.codes(n) and isinstance(tensor, Uniform)}
        return assemble(own, plan, weights)
