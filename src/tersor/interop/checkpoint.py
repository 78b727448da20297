"""The contract between checkpoint files and everything else.

A reader gives a `Checkpoint`; a writer takes one. Tensors are read one at a time, when asked for, so that
memory stays near the largest tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read.

    tied_to: name of an earlier tensor of the same checkpoint that shares this one's memory, shape and dtype.
    note:    what the source said of it that the dtype does not ("Q4_1" of a GGUF tensor), or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    tied_to: str | None = None
    note: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values, uncompressed."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything of a checkpoint but its values.

    format:      "safetensors", "huggingface", "torch", "npz", "onnx", "gguf" or "state_dict".
    tensors:     in the order of the file.
    attachments: what is not a tensor, by name: see each format's module for the names it uses.
    """

    format: str
    tensors: tuple[TensorInfo, ...]
    attachments: Mapping[str, bytes] = field(default_factory=dict)


class Checkpoint(ABC):
    """An open checkpoint; a context manager that closes its files."""

    info: CheckpointInfo

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor `name`: contiguous, on the CPU, safe to modify. KeyError for an unknown name."""

    def close(self) -> None:  # noqa: B027 - not every checkpoint holds something open
        """Releases files and maps. The tensors that were read stay valid."""

    def __enter__(self) -> Checkpoint:
        """The checkpoint itself."""
        return self

    def __exit__(self, *exc: Any) -> None:
        """Closes the checkpoint."""
        self.close()
