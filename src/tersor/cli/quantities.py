"""Numbers with units, as users write them."""

from __future__ import annotations

import re

from tersor.errors import UsageError

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def byte_count(text: str, option: str) -> int:
    """Bytes: "5000000", "5MB", "500 KB", "1.5MiB" (KB is 1000, KiB 1024; the B may be left out).

    Fractions of a byte are dropped. UsageError, naming the option, for anything else, and below one byte.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmg]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{option} takes a number of bytes, such as 5000000, 500KB, 5MB or 1.5MiB; got {text!r}")
    count = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if count < 1:
        raise UsageError(f"{option} must be at least one byte, got {text!r}")
    return count
