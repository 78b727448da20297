"""Bytes before and after, as the file system counts them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tersor.container.index import Index


@dataclass(frozen=True)
class Sizes:
    """before: bytes of what was compressed. after: bytes of the .tsr file. weights: elements of all tensors,
    tied ones once. seconds: None where nothing was timed."""

    before: int
    after: int
    weights: int
    tensors: int
    seconds: float | None = None

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.before / self.after

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file for each weight, everything included."""
        return 8 * self.after / self.weights if self.weights else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "ratio": self.ratio,
            "bits_per_weight": self.bits_per_weight if self.weights else None,
        }

    def __str__(self) -> str:
        change = f"{self.ratio:.2f}x smaller" if self.ratio >= 1 else f"{1 / self.ratio:.2f}x LARGER"
        words = f"{self.before:,} -> {self.after:,} bytes ({change}"
        words += f", {self.bits_per_weight:.3f} bits a weight" if self.weights else ""
        words += f", {self.tensors} tensors"
        return words + (f") in {self.seconds:.2f} s" if self.seconds is not None else ")")


def sizes_of(index: Index, before: int, after: int, seconds: float | None = None) -> Sizes:
    """Sizes of a file with this index."""
    weights = sum(entry.common.shape.numel() for entry in index.tensors if entry.tied_to is None or entry.copied)
    return Sizes(before, after, weights, len(index.tensors), seconds)
