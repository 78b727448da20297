"""Forward hooks that tell somebody of every use of the weights of interest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from tersor.calibration.observer import Use
from tersor.calibration.targets import Target, replay


class Sink(Protocol):
    """Who is told. `batch` and `gradients` as in `Observe`."""

    batch: int
    gradients: bool

    def observe(self, target: Target, use: Use) -> Tensor:
        """Told of a use of a target's weight; returns the output to go on with."""
        ...


class _Bound:
    """`Observe` for one module; weights that were not asked for pass through."""

    def __init__(self, target: Target, sink: Sink) -> None:
        self._target = target
        self._sink = sink
        self.gradients = sink.gradients

    @property
    def batch(self) -> int:
        """Samples in the present batch."""
        return self._sink.batch

    def __call__(self, use: Use) -> Tensor:
        """As `Observe`."""
        if use.weight not in self._target.layouts:
            return use.output
        return self._sink.observe(self._target, use)


@contextmanager
def observed(targets: list[Target], sink: Sink) -> Iterator[None]:
    """Within, `sink.observe` is told of every use of the targets' weights."""
    with ExitStack() as stack:
        for target in targets:
            bound = _Bound(target, sink)

            def hook(
                module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, bound: _Bound = bound
            ) -> Any:
                replaced = replay(module, args, kwargs, output, bound)
                return replaced if bound.gradients else output

            handle = target.module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield
