"""What the user asks for: a size, or how much of the metric may be lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tersor.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """At most one of them; none of them is the default multiplier.

    max_bytes: of the whole file.
    bits:      of the whole file, on average over all parameters and buffers of floating point.
    max_drop:  how far the metric may fall below that of the original network, in the metric's own unit.
    """

    max_bytes: int | None = None
    bits: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("max_bytes", "bits", "max_drop") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other; give one budget")
        for name in given:
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and name != "max_drop"):
                least = "a number of 0 or more" if name == "max_drop" else "a positive number"
                raise UsageError(f"{name} must be {least}, got {value!r}")

    def target_bytes(self, weights: int) -> int | None:
        """The size asked for, of a network of `weights` numbers; None for other budgets."""
        if self.bits is not None:
            return int(self.bits * weights / 8)
        return None if self.max_bytes is None else int(self.max_bytes)
