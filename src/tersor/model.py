"""CompressedModel: all tensors of a model in their representations, with what travels beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tersor.allocation.curve import Curve
from tersor.container.writer import Entry


@dataclass(frozen=True, repr=False)
class CompressedModel:
    """What `tersor.compress` returns and `tersor.save` writes.

    entries: the tensors, in order. source: the kind of checkpoint they came from. attachments: bytes by name.
    original_bytes: size of what was compressed (the file, or all tensors of a model in memory).
    curve: what was measured on the way to a budget; None without one.
    """

    entries: tuple[Entry, ...]
    source: str = "state_dict"
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    original_bytes: int = 0
    curve: Curve | None = None

    def __repr__(self) -> str:
        return f"CompressedModel({len(self.entries)} tensors from {self.source}, {self.original_bytes:,} bytes before)"

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, dequantized. Tied tensors share memory."""
        out: dict[str, Tensor] = {}
        for entry in self.entries:
            if entry.tensor is not None:
                out[entry.name] = entry.tensor.dequantize()
            else:
                source = out[entry.tied_to or ""]
                out[entry.name] = source.clone() if entry.copied else source
        return out
