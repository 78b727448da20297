"""What criteria have in common: a name, a paper, what they need to know, and how they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from tersor.errors import UsageError

_Evidence = TypeVar("_Evidence", bound="Evidence")

NEEDS = {
    "weights": "the weights alone",
    "gradients": "gradients of a loss: give calibration samples",
    "inputs": "second moments of the layers' inputs: give calibration samples",
    "activations": "activations: give calibration samples",
    "scales": "a batch norm whose scales multiply the channels",
}
"""What a criterion may need, in words."""


@dataclass(frozen=True)
class Evidence:
    """Base of what criteria are given: fields that are None were not collected."""


@dataclass(frozen=True)
class Criterion(Generic[_Evidence]):
    """A criterion: scores from what is known, the higher the more a weight (or a channel) is worth.

    name:   what options call it.
    needs:  keys of `NEEDS`; ("weights",) is free of data.
    formula: what it takes of the evidence -> finite float scores.
    fields: names of what it takes, in order.
    paper:  where it comes from.
    """

    name: str
    needs: tuple[str, ...]
    formula: Callable[..., Tensor]
    fields: tuple[str, ...]
    paper: str

    def score(self, evidence: _Evidence) -> Tensor:
        """The scores. UsageError, naming the criterion and what it needs, where something is missing."""
        return self.formula(*(self._taken(evidence, field) for field in self.fields))

    def _taken(self, evidence: _Evidence, field: str) -> Any:
        value = getattr(evidence, field)
        if value is None:
            needed = type(evidence).__dataclass_fields__[field].metadata.get("need", "weights")
            raise UsageError(f"criterion {self.name!r} needs {NEEDS[needed]}")
        return value

    @property
    def data_free(self) -> bool:
        """Whether the weights alone suffice."""
        return set(self.needs) <= {"weights", "scales"}


def by_name(*criteria: Criterion[_Evidence]) -> dict[str, Criterion[_Evidence]]:
    """The criteria by their names."""
    return {criterion.name: criterion for criterion in criteria}


def find(name: object, known: Mapping[str, Criterion[_Evidence]], of: str) -> Criterion[_Evidence]:
    """The criterion of this name. UsageError that lists all of them, if there is none; `of`: "weights", "channels"."""
    if not isinstance(name, str) or name not in known:
        listed = "; ".join(f"{c.name} ({', '.join(c.needs)})" for c in known.values())
        raise UsageError(f"no criterion for {of} is called {name!r}; there are, with what they need: {listed}")
    return known[name]
