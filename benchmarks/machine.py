"""The machine that a benchmark ran on, and the JSON that keeps its numbers."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

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


def write_results(name: str, results: dict[str, Any], package: str = "benchmarks") -> Path:
    """Writes <package>/results/<name>.json with the command that made it and the machine it ran on."""
    path = Path(__file__).parents[1] / package / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    command = " ".join(["python -m", f"{package}.{name}", *sys.argv[1:]])
    path.write_text(json.dumps({"command": command, "machine": describe(), **results}, indent=2) + "\n")
    return path


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
