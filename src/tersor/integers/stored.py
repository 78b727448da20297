"""An integer network from a .tsr file, into its original class."""

from __future__ import annotations

import copy
import os
from typing import IO

import torch
from torch import nn

from tersor.container.reader import Reader
from tersor.errors import MismatchError
from tersor.integers.plan import NAME, Plan, assemble
from tersor.tensors import Uniform


def load_int8(path: str | os.PathLike[str] | IO[bytes], model: nn.Module, *, max_bytes: int | None = None) -> nn.Module:
    """The integer network that `Integers.compressed()` was saved from, to the bit.

    model: a fresh network of the original class; it is not changed. max_bytes: refuses files whose tensors take more.
    Raises InputError for an unreadable path, CorruptFileError for a damaged file, MismatchError for a file without an
    integer network, or of another class.
    """
    with Reader(path, max_bytes=max_bytes) as reader:
        if NAME not in [attachment.name for attachment in reader.index.attachments]:
            raise MismatchError(f"{reader.name}: it holds no integer network; tersor.load reads its tensors")
        plan = Plan.from_json(reader.attachment(NAME))
        found = {name: reader.read(name) for name in reader.names()}
        own = copy.deepcopy(model).eval()
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
