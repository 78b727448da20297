"""Recipes: which technique for which tensor. Patterns select tensors; the last match wins.

As YAML (or JSON), a list of rules:

    - match: "*"
      uniform: {bits: 8}
    - match: "features.*.weight"
      prune: {density: 0.3}
    - match: ["classifier.0.weight", "classifier.3.weight"]
      palettize: {bits: 4}
      shared: true
    - match: "features.*"
      prune_channels: {macs: 0.5}

A pattern is a shell pattern (`*`, `?`, `[...]`) on the tensor's whole name. Among the rules that match a tensor
the last one that prunes decides how it is pruned, and the last one that sets a representation decides that.
Lossy techniques apply to weights: floating-point tensors of two or more dimensions. Other tensors (biases, norms,
integers) stay lossless unless a rule names them exactly, without a pattern.
Training (`train`, under the name of its config), `schedule`, `regrow` and quantizers of activations are for training
loops (`tersor.prepare`); one-shot compression has no use for them.

Rules of channels and blocks are for whole networks, so that `tersor.prune` alone follows them. Their patterns select
the groups that lose channels, by the tensors that compute these, and the blocks that may go, by all of their
parameters. The last rule that matches a group or a block decides.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from tersor.errors import InputError, UsageError, did_you_mean
from tersor.layers import matrix_shape
from tersor.notation import parse
from tersor.options import Options
from tersor.pruning import Prune, PruneBlocks, PruneChannels, Regrow, Schedule
from tersor.quantization import REPRESENTATIONS, Lossless, Palettize, Quantize, RepresentationConfig
from tersor.simulation import ACTIVATIONS, TRAINED, TRAININGS, Activations, Training

_FIELDS: dict[str, tuple[type[Options], str]] = {
    "representation": (RepresentationConfig, "is no representation, such as Quantize(bits=4); prune= takes Prune"),
    "prune": (Prune, "is not Prune(...)"),
    "schedule": (Schedule, "is not Schedule(...)"),
    "regrow": (Regrow, "is not Regrow(...)"),
    "blocks": (PruneBlocks, "is not PruneBlocks(...)"),
    "channels": (PruneChannels, "is not PruneChannels(...)"),
    "train": (Training, "is no kind of training, such as LearnedSteps()"),
    "activations": (Activations, "is no quantizer of activations, such as QuantizeInputs(bits=8)"),
}
"""Field of a rule -> the base of its configs, and what is said of anything else."""

_REMOVALS = ("blocks", "channels")
"""The fields that make networks smaller."""


def _configs() -> dict[str, tuple[str, type[Options]]]:
    """Key in YAML -> field of a rule, and its config."""
    alone: tuple[tuple[str, type[Options]], ...] = (
        ("prune", Prune),
        ("schedule", Schedule),
        ("regrow", Regrow),
        ("blocks", PruneBlocks),
        ("channels", PruneChannels),
    )
    found: dict[str, tuple[str, type[Options]]] = {config.name: (field, config) for field, config in alone}
    for field, known in (("representation", REPRESENTATIONS), ("train", TRAININGS), ("activations", ACTIVATIONS)):
        found.update({name: (field, config) for name, config in known.items()})
    return found


@dataclass(frozen=True)
class Rule:
    """What to do with the tensors that a pattern matches.

    match: one pattern or several. prune, representation, train, activations: None leaves that to earlier rules.
    shared: the matching tensors share one codebook (`Palettize` only).
    max_row: leaves out tensors with more weights a row (output channel) than this; None takes all.
    schedule, regrow: when `prune` reaches its density in a training loop, and which weights come back; None prunes at
             once.
    train: how the representation is trained. A rule that sets a representation without it asks for that
             representation's default training (`tersor.simulation.DEFAULTS`).
    activations: how the inputs of the layers whose weights match are quantized.
    channels, blocks: what is removed of the network; the rule's patterns stand for their `match`.
    """

    match: str | tuple[str, ...]
    representation: RepresentationConfig | None = None
    prune: Prune | None = None
    shared: bool = False
    max_row: int | None = None
    schedule: Schedule | None = None
    regrow: Regrow | None = None
    train: Training | None = None
    activations: Activations | None = None
    channels: PruneChannels | None = None
    blocks: PruneBlocks | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.match, (str, list, tuple)) and self.patterns
        if not named or not all(isinstance(pattern, str) and pattern for pattern in self.patterns):
            raise UsageError(
                "a rule needs a pattern of tensor names to match, or several, and then what is done, as in "
                f"Rule('*.weight', Quantize(bits=4)); got {self.match!r}"
            )
        if not self.treats and not self.channels and not self.blocks:
            raise UsageError(f"the rule for {self.match!r} does nothing; give it a representation or prune")
        for field, (base, fault) in _FIELDS.items():
            value = getattr(self, field)
            if value is None or isinstance(value, base):
                continue
            if field == "prune" and isinstance(value, RepresentationConfig) and self.representation is not None:
                both = f"{self.representation} and {value}"
                raise UsageError(f"the rule for {self.match!r} sets two representations, {both}; keep one")
            raise UsageError(f"the rule for {self.match!r}: {field}={value!r} {fault}")
        if (self.schedule is not None or self.regrow is not None) and self.prune is None:
            raise UsageError(
                f"the rule for {self.match!r}: schedule and regrow go with prune; give it Prune(density=...)"
            )
        if not isinstance(self.shared, bool):
            raise UsageError(f"the rule for {self.match!r}: shared must be true or false, got {self.shared!r}")
        if self.shared and not isinstance(self.representation, Palettize):
            raise UsageError(f"the rule for {self.match!r}: only palettize can be shared between tensors")
        if self.shared and self.train is not None:
            raise UsageError(
                f"the rule for {self.match!r}: shared codebooks are not trained; leave out shared or train"
            )
        whole = isinstance(self.max_row, int) and not isinstance(self.max_row, bool)
        if self.max_row is not None and (not whole or self.max_row < 1):
            raise UsageError(f"the rule for {self.match!r}: max_row must be a positive integer, got {self.max_row!r}")
        self._check_training()
        self._check_removals()

    def _check_training(self) -> None:
        """UsageError for a training that is for another representation; of those that users add nothing is known."""
        if self.train is None or self.representation is None:
            return
        own = next((kind for kind, trainings in TRAINED.items() if type(self.train) in trainings), None)
        if own is not None and not isinstance(self.representation, own):
            raise UsageError(
                f"the rule for {self.match!r}: {self.train.name!r} trains the representation {own.name!r}, got "
                f"{self.representation.name!r}; give it another kind of training"
            )

    def _check_removals(self) -> None:
        for field in _REMOVALS:
            value = getattr(self, field)
            if value is None:
                continue
            if value.match != ("*",):
                raise UsageError(f"the rule for {self.match!r} gives {field} another match; the rule's own says which")
            if self.max_row is not None:
                raise UsageError(f"the rule for {self.match!r}: max_row is for tensors; give {field} another rule")
            replace(value, match=self.patterns)  # blocks by name take no patterns

    @property
    def removals(self) -> tuple[PruneBlocks | PruneChannels, ...]:
        """What the rule removes of networks, blocks first, with the rule's patterns as their `match`."""
        found = [value for value in (self.blocks, self.channels) if value is not None]
        return tuple(replace(value, match=self.patterns) for value in found)

    @property
    def treats(self) -> bool:
        """Whether it says anything of what stays."""
        return any((self.representation, self.prune, self.train, self.activations))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns as a tuple."""
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    def matches(self, tensor: TensorKey) -> bool:
        """Whether a pattern matches the tensor's name and its rows are short enough."""
        if self.max_row is not None and matrix_shape(tensor.shape)[1] > self.max_row:
            return False
        return any(fnmatchcase(tensor.name, pattern) for pattern in self.patterns)

    def to_dict(self) -> dict[str, Any]:
        """As a mapping for JSON or YAML."""
        out: dict[str, Any] = {"match": self.match if isinstance(self.match, str) else list(self.match)}
        for field in _FIELDS:
            config = getattr(self, field)
            if config is not None:
                own = ("name", "match") if field in _REMOVALS else ("name",)
                out[config.name] = {key: value for key, value in config.to_dict().items() if key not in own}
        if self.shared:
            out["shared"] = True
        return out if self.max_row is None else {**out, "max_row": self.max_row}

    @classmethod
    def from_dict(cls, data: Any) -> Rule:
        """From a mapping; UsageError naming what it does not understand."""
        if not isinstance(data, dict) or "match" not in data:
            raise UsageError(f"a rule must be a mapping with a 'match', got {data!r}")
        match = data["match"]
        known = _configs()
        found: dict[str, Any] = {}
        for key, value in data.items():
            if key in ("match", "shared", "max_row"):
                continue
            if key not in known:
                raise UsageError(f"the rule for {match!r}: unknown key {key!r}; {_instead_of(key, known)}")
            options = {} if value is None else value
            if not isinstance(options, dict):
                raise UsageError(f"the rule for {match!r}: options of {key!r} must be a mapping, got {value!r}")
            field, config = known[key]
            if field in found:
                raise UsageError(
                    f"the rule for {match!r} sets two {_PLURALS[field]}, {found[field].name!r} and {key!r}; keep one"
                )
            found[field] = config.from_dict(options)
        patterns = tuple(match) if isinstance(match, list) else match
        return cls(patterns, shared=data.get("shared", False), max_row=data.get("max_row"), **found)


def _instead_of(key: Any, known: Iterable[str]) -> str:
    """What is to be written in the place of a key that there is not."""
    kinds: dict[str, Iterable[str]] = {
        "representation": REPRESENTATIONS,
        "train": TRAININGS,
        "activations": ACTIVATIONS,
    }
    if key in kinds:
        names = list(kinds[key])
        return f"the key is the name of one, {', '.join(names)}, such as {names[0]}: {{}}"
    return f"known are {', '.join(['match', 'shared', 'max_row', *known])}"


_PLURALS = {"representation": "representations", "train": "trainings", "activations": "quantizers of activations"}


@dataclass(frozen=True)
class Treatment:
    """What a recipe does with one tensor. share: number of the rule whose tensors share a codebook, or None.

    train: None for the default training of the representation.
    """

    representation: RepresentationConfig
    prune: Prune | None = None
    share: int | None = None
    schedule: Schedule | None = None
    regrow: Regrow | None = None
    train: Training | None = None
    activations: Activations | None = None


@dataclass(frozen=True)
class TensorKey:
    """What a recipe needs to know of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def is_weight(self) -> bool:
        """Floating point, two or more dimensions, not empty: what lossy techniques are for."""
        return self.dtype.is_floating_point and len(self.shape) >= 2 and 0 not in self.shape


@dataclass(frozen=True)
class Recipe:
    """Rules in order; the last match wins. source: the file that they come from, which errors name; "" for none."""

    rules: tuple[Rule, ...]
    source: str = dataclasses.field(default="", compare=False, repr=False)

    def __init__(self, rules: Sequence[Rule], source: str = "") -> None:
        if not isinstance(rules, (list, tuple)) or not all(isinstance(rule, Rule) for rule in rules):
            hint = "; Recipe.load reads one from a file" if isinstance(rules, (str, os.PathLike)) else ""
            raise UsageError(f"a Recipe takes a list of Rules, got {rules!r}{hint}")
        object.__setattr__(self, "rules", tuple(rules))
        object.__setattr__(self, "source", source)

    @classmethod
    def default(cls) -> Recipe:
        """8 bits with one error-minimising step a channel for all weights; everything else lossless.

        Rows of fewer than 32 weights get 10 bits: they are depthwise kernels and first layers, which cost few bytes
        and feed a whole channel each (10 bits halve the KL divergence of an 8-bit EfficientNet-Lite0, for 1 % more).
        """
        return cls([Rule("*", Quantize(bits=8)), Rule("*", Quantize(bits=10), max_row=31)])

    @classmethod
    def lossless(cls) -> Recipe:
        """Everything exact to the bit."""
        return cls([Rule("*", Lossless())])

    def plan(self, tensors: Sequence[TensorKey]) -> dict[str, Treatment]:
        """What to do with each tensor, by name. UsageError for a pattern that matches nothing."""
        try:
            check_patterns([pattern for rule in self.rules for pattern in rule.patterns], [t.name for t in tensors])
        except UsageError as error:
            raise UsageError(f"{self.source}: {error}" if self.source else str(error)) from error
        return {tensor.name: self._treatment(tensor) for tensor in tensors}

    def _treatment(self, tensor: TensorKey) -> Treatment:
        found = Treatment(Lossless())
        for number, rule in enumerate(self.rules):
            lossy_ok = tensor.dtype.is_floating_point and (tensor.is_weight or tensor.name in rule.patterns)
            if not rule.matches(tensor):
                continue
            if rule.representation is not None and (lossy_ok or isinstance(rule.representation, Lossless)):
                share = number if rule.shared else None
                found = replace(found, representation=rule.representation, share=share, train=None)
            if not lossy_ok:
                continue
            if rule.prune is not None:
                found = replace(found, prune=rule.prune, schedule=rule.schedule, regrow=rule.regrow)
            if rule.train is not None:
                found = replace(found, train=rule.train)
            if rule.activations is not None:
                found = replace(found, activations=rule.activations)
        return found

    @property
    def removals(self) -> tuple[Rule, ...]:
        """The rules that remove channels or blocks, in order."""
        return tuple(rule for rule in self.rules if rule.removals)

    def parted(self) -> tuple[Recipe, Recipe]:
        """What is removed of a network, and what is done with the rest."""
        removing = [Rule(rule.match, channels=rule.channels, blocks=rule.blocks) for rule in self.removals]
        treating = [replace(rule, channels=None, blocks=None) for rule in self.rules if rule.treats]
        return Recipe(removing, self.source), Recipe(treating, self.source)

    def to_list(self) -> list[dict[str, Any]]:
        """As a list of mappings for JSON or YAML."""
        return [rule.to_dict() for rule in self.rules]

    @classmethod
    def from_list(cls, data: Any) -> Recipe:
        """From a list of mappings. UsageError naming what it does not understand."""
        if not isinstance(data, list) or not data:
            raise UsageError(f"a recipe must be a list of rules, got {type(data).__name__}")
        return cls([Rule.from_dict(rule) for rule in data])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """From a YAML or JSON file. InputError if it cannot be read, UsageError if it makes no sense."""
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"Recipe.load takes the path of a YAML or JSON file, got {path!r}")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the recipe cannot be read ({error})") from error
        try:
            return cls(cls.from_list(parse(text, str(path))).rules, str(path))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def check_patterns(patterns: Iterable[str], names: Sequence[str]) -> None:
    """UsageError, with what is near, for the first pattern other than "*" that matches none of the tensors' names."""
    for pattern in patterns:
        if pattern == "*" or any(fnmatchcase(name, pattern) for name in names):
            continue
        modules = (f"{name[:end]}.*" for name in names for end, letter in enumerate(name) if letter == ".")
        hint = did_you_mean(pattern, [*names, *modules])
        if names and not hint:
            hint = f"; patterns are of tensors' whole names, such as {names[0]}"
        raise UsageError(f"the pattern {pattern!r} matches none of the {len(names)} tensors{hint}")
