"""One pass over samples: what units (channels) do where other layers read them.

Legend: B samples, P positions of a sample (pixels, tokens), C channels, U units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.samples import batches
from tersor.errors import CalibrationError, UsageError
from tersor.shrinking.losses import Loss, forward


@dataclass(frozen=True)
class Site:
    """A tensor in which units can be seen: what goes into a module, or what comes out of it.

    module: its path in the model. side: "input" (its first argument) or "output" (its first result).
    dim:    the dimension of the channels, counted from the end (negative).
    units:  for each unit, its positions along that dimension; no position twice.
    """

    module: str
    side: str
    dim: int
    units: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        places = [place for unit in self.units for place in unit]
        if self.side not in ("input", "output") or self.dim >= 0 or len(set(places)) < len(places):
            raise UsageError(
                f"{self.module or 'the model'}: a site needs a side (input or output), a negative dim and units that "
                f"do not overlap, got side={self.side!r}, dim={self.dim!r}"
            )


@dataclass(frozen=True)
class UnitStatistics:
    """Activations a of U units over all their sites; a unit of several channels is their average.

    samples:     B.
    pooled:      float32 (B, U), the mean over a sample's positions: global average pooling.
    idle:        float64 (U,), share of the activations that are not above zero.
    mean:        float64 (U,), E|a|.
    gate:        float64 (U,), E|sum_p a dL/da|, over samples of the sum over a sample's positions, channels and sites:
                 the derivative of a sample's loss by a factor in front of the unit. None without gradients.
    gate_square: float64 (U,), the mean of its square; None without gradients.
    """

    samples: int
    pooled: Tensor
    idle: Tensor
    mean: Tensor
    gate: Tensor | None
    gate_square: Tensor | None


def observe_units(
    model: nn.Module,
    samples: Iterable[Any],
    sites: Mapping[str, Sequence[Site]],
    *,
    gradients: bool = False,
    loss: Loss | None = None,
    seed: int = 0,
) -> dict[str, UnitStatistics]:
    """Statistics under the names of `sites`; those of one name are seen as the same units, of one number.

    model:     in evaluation mode during the pass, and handed back as it came.
    samples:   batches as in `calibration.collect`, of what `loss` takes where it is given. Samples must not influence
               each other.
    gradients: also gather gates, one backward pass a batch.
    loss:      (model, batch) -> scalar, best the sum over samples: a mean makes gates as much smaller. None takes
               gradients without labels (`calibration.default_objective`).
    seed:      of the label-free loss, and of whatever the model and the iterator of samples draw.
    Raises UsageError for sites that do not exist or no samples; CalibrationError, naming the layer, where no sample
    reached any site of a name, activations are NaN or Inf, or samples cannot be told apart.
    """
    modules = dict(model.named_modules())
    watchers = {}
    for name, places in sites.items():
        if not places or len({len(site.units) for site in places}) > 1:
            raise UsageError(f"{name}: its sites must be there, and be of the same number of units")
        for site in places:
            if site.module not in modules:
                raise UsageError(f"{name}: the model has no module {site.module!r}")
        watchers[name] = _Watcher(name, places, gradients)
    generator = torch.Generator().manual_seed(seed)
    with untouched(model, seed), _hooked(modules, watchers):
        for index, batch, size in batches(samples):
            for watcher in watchers.values():
                watcher.start(size)
            with torch.set_grad_enabled(gradients):
                value = forward(model, batch, index, loss, generator)
                if gradients:
                    _backward(value, list(watchers.values()))
            for watcher in watchers.values():
                watcher.end()
    return {name: watcher.result() for name, watcher in watchers.items()}


class _Watcher:
    """Adds up what the sites of one name show."""

    def __init__(self, name: str, sites: Sequence[Site], gradients: bool) -> None:
        self.name, self.sites, self.gradients = name, sites, gradients
        self.reads: list[tuple[Tensor, Site]] = []
        self._batch = 0
        self._size = len(sites[0].units)
        self._maps = {
            site: (
                torch.tensor([place for unit in site.units for place in unit], dtype=torch.int64),
                torch.tensor([u for u, unit in enumerate(site.units) for _ in unit], dtype=torch.int64),
            )
            for site in sites
        }
        self._pooled: list[Tensor] = []
        self._idle, self._absolute, self._count, self._gate, self._square = (
            torch.zeros(self._size, dtype=torch.float64) for _ in range(5)
        )

    def start(self, size: int) -> None:
        """A batch of `size` samples begins."""
        self._batch = size
        self._sum = torch.zeros(size, self._size, dtype=torch.float64)
        self._seen = torch.zeros(self._size, dtype=torch.float64)
        self._gates = torch.zeros(size, self._size, dtype=torch.float64)
        self.reads.clear()

    def read(self, x: Tensor, site: Site) -> Tensor:
        """Takes note of the tensor at a site; returns what the model goes on with, of the same values."""
        values = self._arranged(x.detach(), site)
        sums = values.sum(1)
        if not bool(torch.isfinite(sums).all()):
            raise CalibrationError(f"{site.module}: its {site.side} holds NaN or Inf; look at the samples")
        self._sum += self._by_unit(sums, site)
        positions = self._by_unit(torch.full_like(sums[:1], values.shape[1]), site)[0]
        self._seen += positions
        self._count += positions * self._batch
        self._idle += self._by_unit((values <= 0).sum((0, 1))[None], site)[0]
        self._absolute += self._by_unit(values.abs().sum((0, 1))[None], site)[0]
        if not self.gradients:
            return x
        # A copy of its own has the gradient of this one use, and nobody else overwrites it.
        source = x if x.requires_grad else x.detach().requires_grad_()
        copy = source.clone()
        if not copy.requires_grad:
            raise CalibrationError(f"{site.module}: it runs under torch.no_grad, so that it has no gradients")
        self.reads.append((copy, site))
        # The layer gets yet another view, so that what it does in place leaves the copy's values alone.
        return copy.clone()

    def add_gradient(self, copy: Tensor, gradient: Tensor, site: Site) -> None:
        """Adds sum_p a g of a read."""
        product = self._arranged(copy.detach(), site) * self._arranged(gradient, site)
        gates = product.sum(1)
        if not bool(torch.isfinite(gates).all()):
            raise CalibrationError(f"{site.module}: gradients at its {site.side} are NaN or Inf; look at the loss")
        self._gates += self._by_unit(gates, site)

    def end(self) -> None:
        """The batch is over."""
        self.reads.clear()
        if bool((self._seen > 0).all()):
            self._pooled.append((self._sum / self._seen).float())
            self._gate += self._gates.abs().sum(0)
            self._square += self._gates.square().sum(0)

    def result(self) -> UnitStatistics:
        """The statistics. CalibrationError if nothing was read."""
        if not self._pooled:
            where = ", ".join(dict.fromkeys(site.module for site in self.sites))
            raise CalibrationError(
                f"{self.name}: no sample reached {where} as a module call, so that its activations are unknown; leave "
                "it out, or take a criterion of weights"
            )
        pooled = torch.cat(self._pooled)
        samples = pooled.shape[0]
        gate, square = (s / samples if self.gradients else None for s in (self._gate, self._square))
        return UnitStatistics(samples, pooled, self._idle / self._count, self._absolute / self._count, gate, square)

    def _by_unit(self, values: Tensor, site: Site) -> Tensor:
        """float64 (..., U), on the CPU, of (..., C'): the sum over a unit's channels."""
        out = torch.zeros(values.shape[0], self._size, dtype=torch.float64)
        return out.index_add_(1, self._maps[site][1], values.cpu().double())

    def _arranged(self, x: Tensor, site: Site) -> Tensor:
        """float32 (B, P, C'): the channels that belong to units, in the order of `_maps`."""
        places = self._maps[site][0]
        if x.dim() < -site.dim or x.shape[site.dim] <= int(places.amax()):
            raise CalibrationError(
                f"{site.module}: its {site.side} of shape {tuple(x.shape)} does not have the channels expected in "
                f"dimension {site.dim}"
            )
        last = x.movedim(site.dim, -1)
        if last.dim() == 1:
            last = last[None]
        first = _sample_dimension(last.shape[:-1], self._batch)
        if first is None:
            raise CalibrationError(
                f"{site.module}: in its {site.side} of shape {tuple(x.shape)}, the {self._batch} samples of a batch "
                "cannot be told apart; leave the layer out"
            )
        rows = last.movedim(first, 0).reshape(self._batch, -1, last.shape[-1])
        every = places.numel() == last.shape[-1] and bool((places == torch.arange(places.numel())).all())
        chosen = rows if every else rows.index_select(2, places.to(rows.device))
        return chosen.float()


def _sample_dimension(shape: Sequence[int], batch: int) -> int | None:
    """The dimension of the samples: the first if it is a multiple of the batch, else one that is as long."""
    if shape[0] % batch == 0:
        return 0
    return next((dim for dim, length in enumerate(shape) if length == batch), None)


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], watchers: Mapping[str, _Watcher]) -> Iterator[None]:
    """Within, watchers read their sites."""
    with ExitStack() as stack:
        for watcher in watchers.values():
            for site in watcher.sites:
                module = modules[site.module]
                if site.side == "input":
                    handle = module.register_forward_pre_hook(_before(watcher, site), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(_after(watcher, site))
                stack.callback(handle.remove)
        yield


def _before(watcher: _Watcher, site: Site) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and _is_float(args[0]):
            return (watcher.read(args[0], site), *args[1:]), kwargs
        for key, value in kwargs.items():
            if not args and _is_float(value):
                return args, {**kwargs, key: watcher.read(value, site)}
        return None

    return hook


def _after(watcher: _Watcher, site: Site) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if _is_float(output):
            return watcher.read(output, site)
        if isinstance(output, tuple) and output and _is_float(output[0]):
            return (watcher.read(output[0], site), *output[1:])
        return None

    return hook


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _backward(loss: Tensor, watchers: Sequence[_Watcher]) -> None:
    """Gives every watcher the gradients at what it read."""
    reads = [(watcher, copy, site) for watcher in watchers for copy, site in watcher.reads]
    if not reads:
        return
    gradients = torch.autograd.grad(loss, [copy for _, copy, _ in reads], allow_unused=True)
    for (watcher, copy, site), gradient in zip(reads, gradients, strict=True):
        if gradient is not None:
            watcher.add_gradient(copy, gradient, site)
