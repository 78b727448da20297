"""How a network is trained to recover."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tersor.errors import UsageError
from tersor.training.augment import Augment, default_augment
from tersor.training.distill import Distance


@dataclass(frozen=True)
class Recover:
    """How a network is trained.

    codes:       find new codes, too, instead of those given. It costs a pass over the samples for each weight. Where
                 the given codes came from sequential calibration (`calibration.lockstep`) it brought nothing in probes:
                 what logits of few hundred samples say about many weights did not carry over to other samples.
    values:      train the centroids of codebooks and what is left of pruned floats, too; masks, and which weights share
                 a centroid, stay as they are (`tying`).
    epochs:      passes over the samples with all codes fixed; 0 for none.
    patience:    epochs without a smaller held-out distance after which training ends.
    layer_steps: with `codes`, steps of the optimizer after each layer that is quantized.
    lr:          Adam's learning rate of float tensors, as a part of each tensor's root mean square.
    weight_lr:   of weights that are still floats, and of `values`, likewise.
    batch:       samples a step, of one of the batches given.
    temperature: of soft targets.
    held_out:    share of samples that are not trained on: they decide what is kept.
    augment:     makes new samples of a batch; None for none. By default pictures are mirrored and shifted.
    classes:     whether outputs are logits of classes, which take soft targets, or others, which take relative errors;
                 None for what they look like.
    distance:    of the two networks' outputs, where it is to be another one.
    seed:        of the order of samples and of augmentation.
    """

    codes: bool = False
    values: bool = False
    epochs: int = 12
    patience: int = 4
    layer_steps: int = 12
    lr: float = 0.003
    weight_lr: float = 0.002
    batch: int = 64
    temperature: float = 2.0
    held_out: float = 0.25
    augment: Augment | None = default_augment
    classes: bool | None = None
    distance: Distance | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, low in (("epochs", 0), ("patience", 1), ("layer_steps", 0), ("batch", 1), ("seed", -(2**63))):
            value = getattr(self, option)
            if not _is(int, value) or value < low:
                least = "an integer" if option == "seed" else f"an integer, at least {low}"
                raise UsageError(f"recover: {option} must be {least}, got {value!r}")
        for option in ("lr", "weight_lr", "temperature"):
            value = getattr(self, option)
            if not _is((int, float), value) or not value > 0 or not math.isfinite(value):
                raise UsageError(f"recover: {option} must be a positive number, got {value!r}")
        if not _is((int, float), self.held_out) or not 0 <= self.held_out <= 0.9:
            raise UsageError(f"recover: held_out must be from 0 to 0.9, got {self.held_out!r}")
        for option in ("codes", "values", "classes"):
            value = getattr(self, option)
            if not isinstance(value, bool) and not (option == "classes" and value is None):
                raise UsageError(f"recover: {option} must be True or False, got {value!r}")
        for option in ("augment", "distance"):
            value = getattr(self, option)
            if value is not None and not callable(value):
                raise UsageError(f"recover: {option} must be a function, or None, got {value!r}")


def _is(kinds: type | tuple[type, ...], value: object) -> bool:
    """Whether a value is of these kinds; bools are no numbers."""
    return isinstance(value, kinds) and not isinstance(value, bool)
