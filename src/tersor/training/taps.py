"""What modules inside a network gave in its last call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tersor.calibration.objectives import main_output
from tersor.errors import CalibrationError, UsageError, did_you_mean


class Taps:
    """Outputs of named modules, kept by forward hooks until they are taken. `close` removes the hooks.

    of: what the network is, for messages: "the student".
    graded: only calls with gradients count, so that an evaluation in between leaves no trace.
    Raises UsageError for a name that is no module of the network.
    """

    def __init__(self, model: nn.Module, names: Collection[str], of: str, *, graded: bool) -> None:
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules:
                raise UsageError(f"{of} has no module {name!r}{did_you_mean(name, modules)}")
        self._of = of
        self._graded = graded
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = [
            modules[name].register_forward_hook(self._hook(name)) for name in dict.fromkeys(names)
        ]

    def take(self, name: str) -> Tensor:
        """The output of a module's last call. CalibrationError if it was not called since outputs were forgotten."""
        if name not in self._outputs:
            raise CalibrationError(
                f"{self._of}: module {name!r} gave no output; its features are those of the call just before, of "
                "the network that it was made for"
            )
        return self._outputs[name]

    def forget(self) -> None:
        """Lets the outputs go, and the graph that they hold."""
        self._outputs.clear()

    def close(self) -> None:
        """Removes the hooks; again is fine."""
        self.forget()
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not self._graded or torch.is_grad_enabled():
                self._outputs[name] = main_output(output)

        return keep
