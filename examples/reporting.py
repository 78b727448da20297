"""Where examples leave their numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Writes examples/results/<name>.json with the command that made it and the machine it ran on."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    command = " ".join(["python -m", f"examples.{name}", *sys.argv[1:]])
    path.write_text(json.dumps({"command": command, "machine": describe(), **results}, indent=2) + "\n")
    return path
