"""Which layers a network can spare: bytes and predicted loss of each at a few sizes, and what that means in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.calibrated import measured
from tersor.calibration.collect import collect
from tersor.calibration.crossvalidation import cross_validate
from tersor.calibration.damping import DAMPING
from tersor.calibration.folding import fold_batch_norms
from tersor.calibration.outcomes import NAMES, Outcome, outcomes
from tersor.calibration.samples import halves, listed
from tersor.calibration.statistics import LayerStatistics
from tersor.calibration.targets import find_targets
from tersor.columns import table
from tersor.errors import UsageError, shortlist
from tersor.progress import Progress

REFERENCE = "4 bits"
"""The candidate at which layers are ranked and measured."""

_SQUEEZED = "3 bits"

_SHOWN = 5
"""Layers of either kind that words name."""


@dataclass(frozen=True)
class Candidate:
    """A layer in one representation, all others being as they are.

    name:  one of `calibration.outcomes.NAMES`.
    bytes: of its weight in a file, estimated from the distribution of its codes.
    error: of its outputs, E|(W - Wq) x|^2 / E|W x|^2.
    loss:  predicted divergence of the network's outputs, nats a sample.
    drop:  of `evaluate`, or None where it was not measured.
    """

    name: str
    bytes: int
    error: float
    loss: float
    drop: float | None = None


@dataclass(frozen=True)
class LayerDiagnosis:
    """A weight. bytes: those that its elements take now. also: other names of the same tensor."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    candidates: tuple[Candidate, ...]
    also: tuple[str, ...] = ()

    def at(self, name: str) -> Candidate:
        """The candidate of that name. KeyError if there is none."""
        return {candidate.name: candidate for candidate in self.candidates}[name]

    @property
    def loss_per_byte(self) -> float:
        """Nats that a byte saved at `REFERENCE` costs; infinite where none is."""
        saved = self.bytes - self.at(REFERENCE).bytes
        return self.at(REFERENCE).loss / saved if saved > 0 else math.inf


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    layers:      most loss per byte saved first.
    unreached:   weights that no sample reached.
    other_bytes: of all tensors that are not in `layers` or `unreached`: biases, norms, buffers.
    metric:      `evaluate` of the model as it is; None where nothing was measured.
    """

    layers: tuple[LayerDiagnosis, ...]
    unreached: tuple[str, ...]
    other_bytes: int
    metric: float | None = None

    def shares(self, candidate: str) -> dict[str, tuple[float, float]]:
        """Name of a layer -> its parts of all layers' bytes now, and of the sum of their losses at `candidate`."""
        total = sum(layer.bytes for layer in self.layers) or 1
        loss = sum(layer.at(candidate).loss for layer in self.layers) or 1.0
        return {layer.name: (layer.bytes / total, layer.at(candidate).loss / loss) for layer in self.layers}

    def words(self) -> str:
        """Which layers to protect, which to squeeze, and what is not known: a sentence each."""
        protect, squeeze = [], []
        at_reference, at_squeezed = self.shares(REFERENCE), self.shares(_SQUEEZED)
        for layer in self.layers:
            size, loss = at_reference[layer.name]
            if loss >= 0.05 and loss >= 3 * size:
                text = f"{layer.name} ({size:.1%} of the bytes) causes {loss:.0%} of the predicted loss at {REFERENCE}"
                protect.append((loss, f"{text}: protect it."))
            size, loss = at_squeezed[layer.name]
            if size >= 0.05 and loss <= size / 3:
                text = (
                    f"{layer.name} holds {size:.0%} of the bytes, but {loss:.1%} of the predicted loss at {_SQUEEZED}"
                )
                squeeze.append((size, f"{text}: squeeze it."))
        said = [text for found in (protect, squeeze) for _, text in sorted(found, reverse=True)[:_SHOWN]]
        if not said and self.layers:
            said.append("No layer stands out: steps that follow from one rate suit them all.")
        if self.unreached:
            said.append(f"No sample reached {shortlist(self.unreached)}: nothing is known of their loss.")
        return "\n".join(said)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the words."""
        return {**asdict(self), "words": self.words().splitlines()}

    def __str__(self) -> str:
        shares = self.shares(REFERENCE)
        measured = next((c.name for layer in self.layers for c in layer.candidates if c.drop is not None), None)
        head = ["layer", "shape", "bytes now", f"at {REFERENCE}", "bytes %", "loss %", *NAMES]
        rows = []
        for layer in self.layers:
            size, loss = shares[layer.name]
            cells = [layer.name, "x".join(map(str, layer.shape)), f"{layer.bytes:,}", f"{layer.at(REFERENCE).bytes:,}"]
            cells += [f"{size:.1%}", f"{loss:.1%}", *(f"{layer.at(name).loss:.1e}" for name in NAMES)]
            if measured is not None:
                cells.append(f"{layer.at(measured).drop:.4g}")
            rows.append(cells)
        if measured is not None:
            head.append(f"drop at {measured}")
        return (
            f"predicted loss of each layer at each size, in nats a sample; other tensors: {self.other_bytes:,} bytes"
            "\n\n"
            f"{table(head, rows, right=range(2, len(head)))}\n\n{self.words()}"
        )


@torch.inference_mode(False)
def diagnose(
    model: nn.Module,
    calibration: Iterable[Any],
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    measure: bool | str = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Loss and bytes of each layer alone, at each of `NAMES`; batch norms are folded first, as compression does.

    Losses are predicted to second order, sum_r G_r e_r / 2 (docs/calibration.md): at coarse sizes they are good for
    ranking, not as numbers. Codes are found by error feedback, without a trellis, from every second batch; what they
    lose is taken from the others (from the same one where there is one only).

    calibration: batches as `calibration.collect` takes them. The model is not changed.
    evaluate:    a metric, higher is better; called once for the model, and once a layer, if `measure` is set.
    measure:     also measure the drop of `evaluate` with one layer at a time at this candidate; True for "4 bits".
    progress:    called after each layer, with its name and the weights that are done.
    Raises UsageError for bad arguments, no samples or a model without layers; CalibrationError where the model rejects
    samples, or `evaluate` raises or returns no finite number.
    """
    chosen = REFERENCE if measure is True else measure or None
    if chosen is not None and chosen not in NAMES:
        raise UsageError(f"measure must be True, False or one of {', '.join(NAMES)}; got {measure!r}")
    if chosen is not None and evaluate is None:
        raise UsageError("measure needs evaluate: a function of the model that returns a metric, higher is better")
    samples = listed(calibration)
    folded = fold_batch_norms(model, samples, seed=seed).model
    found = [collect(folded, half, fisher=True, seed=seed + half.first, unreached="ignore") for half in halves(samples)]
    weights = _by_tensor(folded)
    if not weights:
        raise UsageError("the model has no layers with weights that could be diagnosed")
    measuring = None if chosen is None or evaluate is None else _Measured(folded, evaluate, chosen)
    layers, done, total = [], 0, sum(weight.numel() for _, weight in weights)
    for names, weight in weights:
        done += weight.numel()
        # A table that is a matrix, too, is rounded as the matrix: that has an H to feed errors back with.
        reached = [sorted((h[n] for n in names if n in h), key=lambda s: s.layout.diagonal) for h in found]
        if reached[0] or reached[-1]:
            layers.append(_layer(names, weight, reached[0] or reached[-1], reached[-1] or reached[0], measuring))
        if progress is not None:
            progress(names[0], done, total)
    layers.sort(key=lambda layer: layer.loss_per_byte, reverse=True)
    known = {id(weight) for _, weight in weights}
    others = {id(t): t.nbytes for t in [*folded.parameters(), *folded.buffers()] if id(t) not in known}
    unreached = tuple(names[0] for names, _ in weights if not any(name in half for name in names for half in found))
    return Diagnosis(tuple(layers), unreached, sum(others.values()), None if measuring is None else measuring.baseline)


def _by_tensor(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Every weight once: its names, one for each layout in which it is used, and itself."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for target in find_targets(model, None):
        for local in target.layouts:
            weight = target.weight(local)
            names, _ = found.setdefault(id(weight), ([], weight))
            if target.names[local] not in names:
                names.append(target.names[local])
    return list(found.values())


class _Measured:
    """`evaluate` with one weight of the model replaced."""

    def __init__(self, model: nn.Module, evaluate: Callable[[nn.Module], float], candidate: str) -> None:
        self._model = model
        self._evaluate = evaluate
        self.candidate = candidate
        self.baseline = measured(evaluate, model, " of the model as it is")

    def drop(self, name: str, weight: Tensor, replaced: Tensor) -> float:
        """How much of the metric is lost with `replaced` in place of `weight`, a tensor of the model."""
        kept = weight.detach().clone()
        with torch.no_grad():
            try:
                weight.copy_(replaced)
                return self.baseline - measured(
                    self._evaluate, self._model, f" of the model with {name} at {self.candidate}"
                )
            finally:
                weight.copy_(kept)


def _layer(
    names: list[str],
    weight: Tensor,
    statistics: list[LayerStatistics],
    judges: list[LayerStatistics],
    measuring: _Measured | None,
) -> LayerDiagnosis:
    def candidate(outcome: Outcome) -> Candidate:
        drop = None
        if measuring is not None and outcome.name == measuring.candidate:
            drop = measuring.drop(names[0], weight, outcome.weight)
        return Candidate(outcome.name, math.ceil(outcome.bits / 8), outcome.error, outcome.loss, drop)

    first, second = statistics[0], judges[0]
    two = first is not second and first.layout == second.layout
    damping = cross_validate(first, second).damping if two else DAMPING
    found = tuple(candidate(outcome) for outcome in outcomes(weight.detach(), statistics, judges, damping))
    return LayerDiagnosis(names[0], tuple(weight.shape), weight.nbytes, found, tuple(names[1:]))
