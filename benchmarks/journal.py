"""What a long benchmark has done so far, so that an interrupted run goes on where it stopped.

Results of arms are JSON, networks are safetensors, both below `TERSOR_WORK` (default build/benchmarks). A journal
belongs to one plan: what was done under other settings is not taken up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

T = TypeVar("T")


class Journal:
    """name: of the benchmark. plan: all that decides its numbers, JSON-able. Arms are told apart by their keys."""

    def __init__(self, name: str, plan: Any) -> None:
        self._folder = work_folder(name, plan)

    def once(self, key: str, work: Callable[[], T]) -> T:
        """The result of `work`, as JSON gives it back: computed now, or in an earlier run."""
        path = self._path(key, ".json")
        if not path.exists():
            _replace(path, lambda target: target.write_text(json.dumps(work())))
            print(f"  {key}: {path.read_text()[:160]}", flush=True)
        return json.loads(path.read_text())

    def network(self, key: str, model: nn.Module, work: Callable[[nn.Module], object]) -> nn.Module:
        """`model` after `work` changed its tensors, or with the tensors that it had then in an earlier run."""
        path = self._path(key, ".safetensors")
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            work(model)
            state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
            _replace(path, lambda target: save_file(state, target))
        return model

    def tensors(self, key: str, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that `work` gives: computed now, or in an earlier run."""
        path = self._path(key, ".safetensors")
        if not path.exists():
            state = {name: tensor.detach().clone().contiguous() for name, tensor in work().items()}
            _replace(path, lambda target: save_file(state, target))
        return load_file(path)

    def _path(self, key: str, suffix: str) -> Path:
        return self._folder / (key.replace("/", "_").replace(" ", "-") + suffix)


def work_folder(name: str, plan: Any) -> Path:
    """Where what `name` has done lies, below `TERSOR_WORK`: that of other plans (JSON-able) lies elsewhere."""
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True, default=str).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("TERSOR_WORK", "build/benchmarks")) / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Whole files only, whenever the run is stopped."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)
