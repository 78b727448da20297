"""Deep Compression (Han, Mao and Dally 2016): pruning, trained clusters and entropy coding, in one call.

1. Iterative pruning: the weights of least magnitude go, what is left is trained again (section 2).
2. Clusters: the weights of a layer share 2^bits centroids, found by k-means (3.1), which are then trained, each by the
   sum of its weights' gradients, while assignments stay (3.3).
3. Entropy coding of codes and masks: Huffman's codes in the paper (section 4), the smallest of tersor's coders here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from tersor.calibrated import Evaluate, measured
from tersor.coding import CodingConfig
from tersor.columns import numbers_table
from tersor.compress import compress
from tersor.container.writer import file_bytes
from tersor.costs import effective_parameters
from tersor.errors import CalibrationError, TersorError, UsageError
from tersor.model import CompressedModel
from tersor.parallel import check_threads
from tersor.pruning import Prune
from tersor.quantization import Lossless, Palettize
from tersor.recipe import Recipe, Rule, TensorKey
from tersor.sessions import prepare
from tersor.shrinking.holding import masks_of
from tersor.shrinking.options import Iterative
from tersor.shrinking.prune import prune

Train = Callable[[nn.Module], object]
"""Trains the network that it is given, in place, with an optimizer of its own for `model.parameters()`."""

CODERS = {"fixed": "raw", "huffman": "huffman", "tersor": "auto"}
"""Columns of the table: codes of fixed width, Huffman's code, and the smallest of all coders; names of `save`."""


@dataclass(frozen=True)
class Stage:
    """The network after a stage. sizes: bytes of the file by coder (`CODERS`). metric: None without `evaluate`."""

    name: str
    sizes: dict[str, int]
    metric: float | None = None


@dataclass(frozen=True, repr=False)
class DeepCompressed:
    """What `deep_compression` returns.

    model:      an ordinary module that holds exactly what the file holds. compressed: for `tersor.save`.
    stages:     in order, the trained network first. original_bytes: of all its tensors, as floats.
    notes:      what was done otherwise than asked, and why.
    """

    model: nn.Module
    compressed: CompressedModel
    stages: tuple[Stage, ...]
    original_bytes: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"DeepCompressed({self.original_bytes:,} -> {self.stages[-1].sizes['tersor']:,} bytes)"

    def report(self) -> str:
        """A table as text: a row a stage, its bytes by each coder, how many times smaller, and the metric."""
        head = ["stage", *(f"{coder}, bytes" for coder in CODERS), "smaller", "metric"]
        rows = [
            [
                stage.name,
                *(f"{stage.sizes[coder]:,}" for coder in CODERS),
                f"{self.original_bytes / stage.sizes['tersor']:.1f}x",
                "" if stage.metric is None else f"{stage.metric:.2f}",
            ]
            for stage in self.stages
        ]
        return "\n".join([numbers_table(head, rows), *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Of JSON types."""
        stages = [asdict(stage) for stage in self.stages]
        return {"original_bytes": self.original_bytes, "stages": stages, "notes": list(self.notes)}


def paper_recipe(model: nn.Module, density: float = 0.1, *, linear_bits: int = 5, conv_bits: int = 8) -> Recipe:
    """One threshold for all weights together; centroids of 5 bits, of 8 bits in convolutions, as the paper has it."""
    weights = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    ]
    rules = [Rule("*", Palettize(bits=linear_bits), Prune(density=density, scope="global"))]
    return Recipe([*rules, Rule(tuple(weights), Palettize(bits=conv_bits))] if weights else rules)


def deep_compression(
    model: nn.Module,
    train: Train,
    evaluate: Evaluate | None = None,
    *,
    recipe: Recipe | Rule | list[Rule] | None = None,
    schedule: Iterative | None = None,
    train_centroids: Train | None = None,
    watch: Callable[[str, nn.Module], object] | None = None,
    threads: int | None = None,
) -> DeepCompressed:
    """Prunes, clusters and codes a trained network.

    model:    trained; it is not changed.
    train:    called with the pruned network after each step of pruning, and with the clustered one, each time to train
              it in place. Pruned weights stay zero, and weights of a cluster stay equal, whatever its optimizer does.
    evaluate: a network -> a metric, higher is better.
    recipe:   rules with `Prune` and `Palettize`, without schedules of their own; by default `paper_recipe(model)`.
              Weights of which fewer are kept than there are to be centroids get fewer bits, and a note.
    schedule: of pruning; by default `Iterative(steps=5)`. Its `max_drop` ends pruning where the metric has lost more.
    train_centroids: in the place of `train` once weights are clustered: the paper trains these at smaller rates.
    watch:    called with each stage's name and network, which it must not change.
    threads:  of coding; None for one a CPU.

    Where the metric falls while centroids are trained, they are left as k-means found them. Raises UsageError for
    arguments that make no sense; CalibrationError where `train` or `evaluate` fail; errors of `tersor.prune` and
    `tersor.prepare`.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"deep_compression takes an nn.Module, got {type(model).__name__}")
    functions = {"train": train, "evaluate": evaluate, "train_centroids": train_centroids, "watch": watch}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name == "train"):
            takes = "a stage's name and the model" if name == "watch" else "the model"
            raise UsageError(f"deep_compression: {name} must be a function of {takes}, got {function!r}")
    check_threads(threads)
    recipe = paper_recipe(model) if recipe is None else _as_recipe(recipe)
    ledger = _Ledger(evaluate, watch, threads)
    if schedule is not None and not isinstance(schedule, Iterative):
        raise UsageError(f"deep_compression: schedule must be Iterative(steps=...), got {schedule!r}")
    schedule = schedule or Iterative()
    before = compress(model, lossless=True)
    ledger.add("trained", model, before)

    def trained(network: nn.Module) -> object:
        result = train(network)
        ledger.pruned(network, schedule.steps)
        return result

    found = prune(model, recipe, fine_tune=trained, evaluate=evaluate, schedule=schedule)
    ledger.measured([step.metric for step in found.rounds])
    representations, notes = _representations(found.model, recipe)
    session = prepare(found.model, representations)
    clustered = copy.deepcopy(session.model)
    result = clustered, session.finalize(clustered)
    first = ledger.add("clustered", *result)
    _train(train_centroids or train, session.model)
    learned = session.finalize()
    last = ledger.add("centroids trained", session.model, learned)
    if first.metric is not None and last.metric is not None and last.metric < first.metric:
        notes.append("training made the centroids worse; they stay as k-means found them")
        ledger.stages.append(replace(first, name="centroids of k-means"))
    else:
        result = session.model, learned
    return DeepCompressed(*result, tuple(ledger.stages), before.original_bytes, (*found.notes, *notes))


def _as_recipe(recipe: Any) -> Recipe:
    """As `prepare` takes it. UsageError for rules that say when to prune: training here is the caller's."""
    chosen = recipe if isinstance(recipe, Recipe) else Recipe([recipe] if isinstance(recipe, Rule) else recipe)
    for rule in chosen.rules:
        for name in ("schedule", "regrow"):
            if getattr(rule, name) is not None:
                raise UsageError(
                    f"deep_compression: the rule for {rule.match!r} has a {name}, which is for tersor.prepare; leave "
                    "it out: deep_compression(schedule=Iterative(...)) says in how many steps is pruned"
                )
    return chosen


def _representations(model: nn.Module, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """(the recipe without pruning, with no more centroids than a weight has kept values, and notes of that)."""
    rules = [
        replace(rule, prune=None) for rule in recipe.rules if rule.representation or rule.train or rule.activations
    ]
    if not any(rule.representation for rule in rules):
        raise UsageError("deep_compression: no rule of the recipe clusters; give one of them Palettize(bits=...)")
    tensors = dict(effective_parameters(model))
    buffers = [TensorKey(name, tuple(t.shape), t.dtype) for name, t in model.named_buffers() if name not in tensors]
    keys = [TensorKey(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
    plan = Recipe(rules).plan([*keys, *buffers])
    masks, notes = masks_of(model), []
    for key in keys:
        config, mask = plan[key.name].representation, masks.get(key.name)
        kept = tensors[key.name].numel() if mask is None else int(mask.sum())
        if isinstance(config, Palettize) and kept < 1 << config.bits:
            fewer = replace(config, bits=kept.bit_length() - 1) if kept > 1 else Lossless()
            rules.append(Rule(key.name, fewer))
            notes.append(f"{key.name}: {fewer}, as only {kept} of its weights are kept")
    return Recipe(rules), notes


class _Ledger:
    """Stages, measured. Mutable."""

    def __init__(
        self, evaluate: Evaluate | None, watch: Callable[[str, nn.Module], object] | None, threads: int | None
    ) -> None:
        self.evaluate, self.watch, self.threads = evaluate, watch, threads
        self.stages: list[Stage] = []

    def add(self, name: str, model: nn.Module, compressed: CompressedModel) -> Stage:
        metric = None if self.evaluate is None else measured(self.evaluate, model, f", {name}")
        return self._note(Stage(name, self._sizes(compressed), metric), model)

    def pruned(self, model: nn.Module, steps: int) -> None:
        """A step of pruning, whose metric comes later."""
        name = f"pruned, step {len(self.stages)} of {steps}"
        self._note(Stage(name, self._sizes(compress(model, lossless=True))), model)

    def measured(self, metrics: Sequence[float | None]) -> None:
        """The metrics of pruning's steps, in their order."""
        steps = [replace(stage, metric=metric) for stage, metric in zip(self.stages[1:], metrics, strict=True)]
        self.stages[1:] = steps

    def _note(self, stage: Stage, model: nn.Module) -> Stage:
        self.stages.append(stage)
        if self.watch is not None:
            self.watch(stage.name, model)
        return stage

    def _sizes(self, compressed: CompressedModel) -> dict[str, int]:
        return {
            name: file_bytes(
                compressed.entries,
                self.threads,
                attachments=compressed.attachments,
                source=compressed.source,
                coding=CodingConfig(coder),
            )
            for name, coder in CODERS.items()
        }


def _train(train: Train, network: nn.Module) -> None:
    modes = [(module, module.training) for module in network.modules()]
    try:
        train(network)
    except TersorError:
        raise
    except Exception as error:
        raise CalibrationError(f"train, of the clustered network, raised {type(error).__name__}: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode
