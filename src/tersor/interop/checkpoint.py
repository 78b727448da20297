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


@dataclass(frozen=True)
class Grid:
    """A tensor that the source quantized: integer codes on an affine grid per group. All on the CPU.

    w = scale * q, or scale * (q + 2^(bits-1)) + offset where there is an offset, in float32, each operation rounded:
    exactly what `Checkpoint.read` gives for the tensor.

    codes:  int8 of the tensor's shape, in [-2^(bits-1), 2^(bits-1) - 1]. bits: 1 to 8.
    scale:  float32 (O, G), finite: one for each `group_size` weights of a row (see `layers.matrix_shape`).
    offset: float32 (O, G), finite, or None.
    """

    codes: Tensor
    bits: int
    scale: Tensor
    offset: Tensor | None
    group_size: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(t.numel() * t.itemsize for t in (self.codes, self.scale, self.offset) if t is not None)


class Checkpoint(ABC):
    """An open checkpoint; a context manager that closes its files.

    file_bytes: of all files that were taken, where the source is a folder; None elsewhere.
    """

    info: CheckpointInfo
    file_bytes: int | None = None

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor `name`: contiguous, on the CPU, safe to modify. KeyError for an unknown name."""

    def read_grid(self, name: str) -> Grid | None:
        """How the source itself stores the tensor `name`, which it quantized on an affine grid per group.

        None where it did not, or its steps are not finite. KeyError for an unknown name.
        """
        return None

    def close(self) -> None:  # noqa: B027 - not every checkpoint holds something open
        """Releases files and maps. The tensors that were read stay valid."""

    def __enter__(self) -> Checkpoint:
        """The checkpoint itself."""
        return self

    def __exit__(self, *exc: Any) -> None:
        """Closes the checkpoint."""
        self.close()
