"""A state_dict in memory as a checkpoint, and tied tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tersor.errors import TersorWarning, UnsupportedTypeError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.raw import check_plain


class StateDict(Checkpoint):
    """Tensors that lie in memory already; `read` gives copies."""

    def __init__(self, tensors: Mapping[str, Tensor], attachments: Mapping[str, bytes], format: str) -> None:
        """Takes `tensors` as they are; `check_plain` has accepted them."""
        self._tensors = tensors
        ties = detect_ties(tensors.items())
        infos = (TensorInfo(name, tuple(t.shape), t.dtype, ties.get(name)) for name, t in tensors.items())
        self.info = CheckpointInfo(format, tuple(infos), dict(attachments))

    def read(self, name: str) -> Tensor:
        """The tensor `name`, copied to the CPU; see `Checkpoint.read`."""
        tensor = self._tensors[name].detach()
        copy = torch.empty(tensor.shape, dtype=tensor.dtype)
        return copy.copy_(tensor)


def from_state_dict(state_dict: Mapping[str, Tensor], attachments: Mapping[str, bytes] | None = None) -> Checkpoint:
    """`state_dict` as a `Checkpoint` of format "state_dict".

    Tensors may lie on any device that holds values. UnsupportedTypeError names the key of an entry that is
    not a dense tensor; an entry that is None (an empty `_extra_state`) is left out with a TersorWarning.
    """
    tensors = {}
    for name, value in state_dict.items():
        if value is None:
            warnings.warn(f"state_dict[{name!r}] is None and was left out", TersorWarning, stacklevel=2)
            continue
        if not isinstance(value, Tensor):
            raise UnsupportedTypeError(
                f"state_dict[{name!r}] is a {type(value).__name__}, not a tensor; "
                "remove the key or turn it into a tensor"
            )
        check_plain(value, f"state_dict[{name!r}]")
        tensors[name] = value
    return StateDict(tensors, attachments or {}, "state_dict")


def detect_ties(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Name -> earlier name of a tensor that is the same view of the same memory, with the same dtype."""
    first: dict[tuple[object, ...], str] = {}
    ties = {}
    for name, t in tensors:
        if t.numel() == 0:
            continue
        view = (t.device, t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype)
        key = (*view, t.is_conj(), t.is_neg())
        if key in first:
            ties[name] = first[key]
        else:
            first[key] = name
    return ties
