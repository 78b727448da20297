"""Some tensors of a checkpoint, seen as a checkpoint of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo


class Part(Checkpoint):
    """`tensors` of `whole`, whose names lose `prefix`; ties to tensors outside are dropped."""

    def __init__(
        self,
        whole: Checkpoint,
        tensors: Sequence[TensorInfo],
        prefix: str,
        format: str,
        attachments: Mapping[str, bytes],
    ) -> None:
        """A view: nothing is read before `read`."""
        self._whole = whole
        self._prefix = prefix
        names = {t.name for t in tensors}
        cut = len(prefix)
        own = (
            replace(t, name=t.name[cut:], tied_to=t.tied_to[cut:] if t.tied_to in names else None)  # type: ignore[index]
            for t in tensors
        )
        self.info = CheckpointInfo(format, tuple(own), dict(attachments))

    def read(self, name: str) -> Tensor:
        """The tensor `name`; see `Checkpoint.read`."""
        return self._whole.read(self._prefix + name)
