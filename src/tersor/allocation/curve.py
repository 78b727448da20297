"""What was measured on the way to a budget: sizes and qualities at several multipliers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One compressed network.

    rate:       the multiplier, nats of loss per bit.
    bytes:      of the whole file.
    divergence: nats a sample from the original network, on the calibration samples.
    metric:     what `evaluate` gave; None if it was not asked.
    """

    rate: float
    bytes: int
    divergence: float
    metric: float | None = None


@dataclass(frozen=True)
class Curve:
    """points: by falling size. chosen: the one that was taken. reference: the metric of the original network."""

    points: tuple[Point, ...]
    chosen: Point
    reference: float | None = None

    @classmethod
    def of(cls, points: list[Point], chosen: Point, reference: float | None = None) -> Curve:
        """Sorts the points."""
        return cls(tuple(sorted(points, key=lambda point: -point.bytes)), chosen, reference)

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types."""
        return {
            "reference": self.reference,
            "chosen": asdict(self.chosen),
            "points": [asdict(point) for point in self.points],
        }
