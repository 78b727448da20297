"""The C++ core, with the instruction set that ``TERSOR_ISA`` asks for.

``TERSOR_ISA`` may be ``scalar``, ``avx2`` or ``avx512``; unset, the best one that the CPU offers is used.
Every path gives the same bits: the switch exists for tests, for debugging and for benchmarks.
"""

import os
from typing import Any

from tersor import _core  # type: ignore[attr-defined]

_forced = os.environ.get("TERSOR_ISA", "")
if _forced:
    _core.force_isa(_forced)

core: Any = _core
