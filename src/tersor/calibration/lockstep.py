"""Two networks walk side by side through all samples and halt at every layer, so that it can be quantized by what it
receives behind the layers that are quantized already: sequential calibration in one pass.

Every forward pass (of each batch, in each network) has a thread of its own, which only runs while it is told to: the
threads are coroutines that reach through any network's own code. Nothing runs at the same time, so that the order of
all sums is fixed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.collect import MEMORY, POSITIONS
from tersor.calibration.guard import untouched
from tersor.calibration.observer import Use
from tersor.calibration.pairs import Before, PairStatistics, PairSums
from tersor.calibration.samples import batches, call
from tersor.calibration.targets import Target, find_targets, preview
from tersor.calibration.thinning import Thinning
from tersor.errors import MismatchError

Visit = Callable[[dict[str, list[PairStatistics]]], None]
"""Told of the weights of a module by name: statistics of every second batch, and of the others if there are any."""


def lockstep(
    model: nn.Module,
    student: nn.Module,
    samples: Iterable[Any],
    layers: Collection[str],
    visit: Visit,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    positions: int = POSITIONS,
) -> None:
    """Calls `visit` with the statistics of one module's weights at a time, in the order of use, in two halves.

    model:    the float network. student: the same modules, whose weights `visit` may change in place, and its other
              parameters, too: what comes later in the pass sees the change.
    samples:  batches, as in `collect`. What flows between two layers is in memory for all of them, in both networks.
    layers:   names of weights or modules. One that is used several times is visited at its first use only.
    seed, memory, positions: as in `collect`.

    Raises MismatchError if the networks do not have the same layers; CalibrationError if they use them with inputs of
    different shapes; errors as `collect`; and whatever `visit` raises.
    """
    floats, others = find_targets(model, layers), find_targets(student, layers)
    if [t.names for t in floats] != [t.names for t in others]:
        raise MismatchError("the float and the quantized model do not have the same layers")
    with untouched(model, seed), untouched(student, seed), ExitStack() as stack:
        walk = _Walk(memory, Thinning(positions, seed))
        pairs = []
        for index, batch, size in batches(samples):
            both = (_Walker(network, batch, index, size) for network in (model, student))
            pairs.append(tuple(stack.enter_context(walker) for walker in both))
        stack.enter_context(_hooks(floats, walk.at_float))
        stack.enter_context(_hooks(others, walk.at_student))
        for first, second in pairs:
            walk.advance(first, second)
        while True:
            place = next((w.place for pair in pairs for w in reversed(pair) if w.place is not None), None)
            if place is None:
                break
            visit(walk.take(place))
            for first, second in pairs:
                if first.place == place:
                    walk.advance_float(first)
                if second.place == place:
                    walk.advance_student(second, first)


class _Halt(BaseException):
    """Ends a forward pass that is not to go on. No Exception: a network's own handlers let it through."""


class _Walker:
    """One forward pass, in a thread. place: the names of the module at which it waits; None before and after."""

    def __init__(self, model: nn.Module, batch: Any, index: int, size: int) -> None:
        self.size = size
        self.place: tuple[str, ...] | None = None
        self.held: dict[str, list[Before]] = {}
        self.index = index
        self._model, self._batch = model, batch
        self._error: BaseException | None = None
        self._halted = False
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Lets it run up to its next place, or to the end. Raises what the pass raised."""
        self.place = None
        self._turn.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error

    def pause(self, place: tuple[str, ...]) -> None:
        """Called from within the pass: waits."""
        self.place = place
        self._paused.release()
        self._turn.acquire()
        if self._halted:
            raise _Halt

    def __enter__(self) -> _Walker:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the thread, wherever it is."""
        self._halted = True
        self._turn.release()
        self._thread.join()

    def _run(self) -> None:
        self._turn.acquire()
        if self._halted:
            return
        try:
            with torch.no_grad():
                call(self._model, self._batch, self.index)
        except _Halt:
            pass
        except BaseException as error:  # noqa: BLE001 - `resume` raises it again, in the caller's thread
            self._error = error
        self._paused.release()


class _Walk:
    """What the hooks share: whose turn it is, and the sums of the place where all wait."""

    def __init__(self, memory: int, thinning: Thinning) -> None:
        self._memory = memory
        self._thinning = thinning
        self._visited: set[tuple[str, ...]] = set()
        self._sums: dict[tuple[str, ...], dict[int, PairSums]] = {}
        self._turn: _Walker | None = None
        self._partner: _Walker | None = None

    def advance(self, first: _Walker, second: _Walker) -> None:
        """Both of a batch, the float network first: what it holds is used up at once."""
        self.advance_float(first)
        self.advance_student(second, first)

    def advance_float(self, walker: _Walker) -> None:
        """The float network's pass, up to its next place."""
        walker.held = {}
        self._turn = walker
        walker.resume()

    def advance_student(self, walker: _Walker, partner: _Walker) -> None:
        """The other network's pass, up to its next place."""
        self._turn, self._partner = walker, partner
        walker.resume()

    def take(self, place: tuple[str, ...]) -> dict[str, list[PairStatistics]]:
        """The statistics of a place, which counts as visited from now on."""
        self._visited.add(place)
        halves = self._sums.pop(place, {})
        found: dict[str, list[PairStatistics]] = {}
        for _, sums in sorted(halves.items()):
            for name in sums.accumulators:
                found.setdefault(name, []).append(sums.result(name))
        return found

    def at_float(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The float network is about to use a module: its inputs are held."""
        place, walker = tuple(target.names.values()), self._turn
        if place in self._visited or walker is None:
            return

        def observe(use: Use) -> Tensor:
            inputs, weight, places = self._thinning.thin(use.inputs)
            walker.held.setdefault(target.names[use.weight], []).append(Before(inputs, weight, places))
            return use.output

        preview(target.module, args, kwargs, _Observe(target, walker.size, observe))
        walker.pause(place)

    def at_student(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The other network is about to use a module: its inputs are added, and it waits until it is quantized."""
        place, walker, partner = tuple(target.names.values()), self._turn, self._partner
        if place in self._visited or walker is None or partner is None:
            return
        if partner.place == place:
            halves = self._sums.setdefault(place, {})
            sums = halves.setdefault(walker.index % 2, PairSums(self._memory))
            sums.begin(partner.held)
            partner.held = {}
            preview(target.module, args, kwargs, _Observe(target, walker.size, lambda use: sums.observe(target, use)))
            sums.end(walker.size)
        walker.pause(place)


@dataclass
class _Observe:
    """`observer.Observe` of one module; weights that were not asked for pass through."""

    target: Target
    batch: int
    told: Callable[[Use], Tensor]
    gradients: bool = False

    def __call__(self, use: Use) -> Tensor:
        return self.told(use) if use.weight in self.target.layouts else use.output


_Hook = Callable[[Target, tuple[Any, ...], Mapping[str, Any]], None]


@contextmanager
def _hooks(targets: list[Target], hook: _Hook) -> Iterator[None]:
    with ExitStack() as stack:
        for target in targets:

            def told(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], target: Target = target) -> None:
                hook(target, args, kwargs)

            stack.callback(target.module.register_forward_pre_hook(told, with_kwargs=True).remove)
        yield
