"""The machine that a benchmark ran on, for the JSON beside its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy
import torch

from tersor._native import core


def describe() -> dict[str, str | int]:
    """CPU model, cores that this process may use, instruction set in force, and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "isa": core.active_isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
