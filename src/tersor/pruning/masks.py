"""`Prune`: which weights of a tensor are kept, as an option of recipes; and masks from magnitudes (Han et al. 2015,
Learning both Weights and Connections for Efficient Neural Networks, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tersor._native import core
from tersor.errors import UsageError
from tersor.matrices import blocks, float_matrix
from tersor.options import Options
from tersor.pruning.criteria import WeightEvidence, weight_criterion
from tersor.pruning.granularity import checked, mask_of
from tersor.pruning.patterns import parse_pattern


@dataclass(frozen=True)
class Prune(Options):
    """Keeps the weights that are worth most. Exactly one of `density` and `threshold` is given, neither for N:M.

    density:   share of the weights (or blocks, rows ...) that is kept, in (0, 1].
    threshold: weights with |w| > threshold >= 0 are kept; 0 prunes exactly the zeros. Only of single weights by "l1".
    scope:     what `density` is a share of: "tensor", "channel" for the same number in each output channel, or
               "global": of all tensors with such an option together, which `tersor.prune` alone can do.
    criterion: what a weight is worth, a name of `criteria.WEIGHT_CRITERIA`. "l1", "l2" and "random" need no data; the
               others need calibration samples, which `tersor.prune` takes.
    pattern:   what is kept or pruned together: "weight", N:M such as "2:4" (2 kept of 4 neighbouring inputs), a block
               of rows x columns such as "1x8", "row", "column" or "kernel" (`patterns`).
    parts:     runs of equally many rows pruned on their own: 4 for the gates of an LSTM, 3 of a GRU.
    floor:     with scope "global", the share of each tensor that stays whatever its worth.
    seed:      of "random".
    """

    name: ClassVar[str] = "prune"
    other_names: ClassVar[Mapping[str, str]] = {
        "sparsity": "density=1 - sparsity, the share that is kept",
        "amount": "density=1 - amount, the share that is kept",
    }

    density: float | None = None
    threshold: float | None = None
    scope: str = "tensor"
    criterion: str = "l1"
    pattern: str = "weight"
    parts: int = 1
    floor: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            pattern, criterion = parse_pattern(self.pattern), weight_criterion(self.criterion)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error
        if pattern.kind != "n:m" and (self.density is None) == (self.threshold is None):
            raise UsageError(
                f"{self.name}: exactly one of density (in (0, 1]) and threshold (0 or more) must be given, "
                f"got density={self.density!r} and threshold={self.threshold!r}"
            )
        if self.density is not None:
            self.check_number("density", 0.0, 1.0, open_low=True)
        if self.threshold is not None:
            self.check_number("threshold", 0.0, float("inf"))
            if (criterion.name, pattern.kind, self.scope, self.parts) not in [
                ("l1", "weight", scope, 1) for scope in ("tensor", "channel")
            ]:
                raise UsageError(f"{self.name}: a threshold is for single weights by l1; give a density instead")
        self.check_choice("scope", ("tensor", "channel", "global"))
        self.check_integer("parts", 1, 2**31)
        self.check_number("floor", 0.0, 1.0)
        self.check_integer("seed", 0, 2**63 - 1)
        if self.floor and self.scope != "global":
            raise UsageError(f'{self.name}: floor is for scope "global", got scope {self.scope!r}')
        if self.parts > 1 and self.scope == "global":
            raise UsageError(f'{self.name}: parts are pruned on their own, which scope "global" contradicts')
        if self.threshold is None:
            try:
                checked(self.density, self.pattern, self.scope)
            except UsageError as error:
                raise UsageError(f"{self.name}: {error}") from error

    @property
    def share(self) -> float | None:
        """Share of the weights that is kept, of N:M patterns, too; None with a threshold."""
        return self.density if self.density is not None else parse_pattern(self.pattern).density

    def mask(self, weight: Tensor, evidence: WeightEvidence | None = None) -> Tensor:
        """The bool mask of the weight's shape on the CPU, True where kept.

        evidence: what is known of the weight, for criteria that need data; None for those that do not.
        Raises as `magnitude_mask` and `mask_of`; UsageError where the criterion needs what is not there.
        """
        if self.scope != "global" and (self.criterion, self.pattern, self.parts) == ("l1", "weight", 1):
            return magnitude_mask(weight, density=self.density, threshold=self.threshold, scope=self.scope)
        scores = self.scores(weight, evidence)
        return mask_of(scores, self.density, pattern=self.pattern, scope=self.scope, parts=self.parts)

    def scores(self, weight: Tensor, evidence: WeightEvidence | None = None) -> Tensor:
        """What each weight is worth, float of its shape. Errors as `mask`."""
        if evidence is None:
            values = torch.from_numpy(float_matrix(weight)).reshape(weight.shape)
            evidence = WeightEvidence(values, seed=self.seed)
        return weight_criterion(self.criterion).score(evidence)


def magnitude_mask(
    weight: Tensor, *, density: float | None = None, threshold: float | None = None, scope: str = "tensor"
) -> Tensor:
    """Bool mask of the weight's shape on the CPU, True where kept; the arguments are those of `Prune`.

    A density keeps exactly round(density * n) of n weights (of a row, with scope "channel"), in the order of
    magnitude and, among equals, of position; zeros are kept only where nothing else is left. Magnitudes are
    compared as float32. Raises UsageError as `Prune` does, and for scope "global"; UnsupportedTypeError and
    NonFiniteError as `float_matrix`.
    """
    options = Prune(density, threshold, scope)
    if scope == "global":
        raise UsageError('scope "global" compares the weights of several tensors; use tersor.prune or global_masks')
    values = float_matrix(weight)
    if options.scope == "tensor":
        values = values.reshape(1, -1)
    keep = np.zeros(values.shape, np.bool_)
    if options.density is not None:
        core.keep_largest(values, round(options.density * values.shape[1]), keep)
    elif options.threshold is not None:
        flat, flat_keep = values.reshape(-1), keep.reshape(-1)
        for block in blocks(flat.size):
            flat_keep[block] = np.abs(flat[block]).astype(np.float64) > options.threshold
    return torch.from_numpy(keep).reshape(weight.shape)
