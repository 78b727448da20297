"""Frozen option sets (`Quantize(bits=4)`) that check themselves and travel as dictionaries (JSON, YAML)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from tersor.errors import UsageError

_Self = TypeVar("_Self", bound="Options")


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of the config dataclasses. Subclasses name themselves and check their fields in `__post_init__`.

    name: what recipes and the command line call it.
    other_names: what other tools call its options -> what is to be given here.
    """

    name: ClassVar[str]
    other_names: ClassVar[Mapping[str, str]] = {}

    def __new__(cls: type[_Self], *values: Any, **options: Any) -> _Self:
        """UsageError for an unknown option, which a dataclass itself would meet with a bare TypeError."""
        cls._check_names(options)
        return super().__new__(cls)

    def to_dict(self) -> dict[str, Any]:
        """`{"name": ..., option: value, ...}` with every option, of JSON types only."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[_Self], values: Mapping[str, Any]) -> _Self:
        """The inverse of `to_dict`; options left out take their defaults, and so does "name".

        Raises UsageError for an unknown option, a "name" that is not this class's, or a value out of range.
        """
        options = dict(values)
        name = options.pop("name", cls.name)
        if name != cls.name:
            raise UsageError(f"{cls.name}: the options given are those of {name!r}")
        cls._check_names(options)
        return cls(**options)

    @classmethod
    def _check_names(cls, options: Iterable[Any]) -> None:
        known = [field.name for field in dataclasses.fields(cls)]
        for option in options:
            if option in cls.other_names:
                raise UsageError(f"{cls.name}: there is no option {option!r}; give {cls.other_names[option]}")
            if option not in known:
                raise UsageError(f"{cls.name}: unknown option {option!r}; it has {', '.join(known) or 'none'}")

    def check_integer(self, option: str, low: int, high: int) -> None:
        """UsageError unless the option is an int in [low, high]."""
        value = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{self.name}: {option} must be an integer from {low} to {high}, got {value!r}")

    def check_number(self, option: str, low: float, high: float, *, open_low: bool = False) -> None:
        """UsageError unless the option is a finite number in [low, high]; in (low, high] with `open_low`."""
        value = getattr(self, option)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (open_low and value == low):
            above = "above" if open_low else "from"
            below = f" up to {high}" if math.isfinite(high) else " upwards"
            raise UsageError(f"{self.name}: {option} must be a number {above} {low}{below}, got {value!r}")

    def check_flag(self, option: str) -> None:
        """UsageError unless the option is a bool."""
        value = getattr(self, option)
        if not isinstance(value, bool):
            raise UsageError(f"{self.name}: {option} must be true or false, got {value!r}")

    def check_patterns(self, option: str) -> None:
        """Makes one pattern of names, or several, a tuple of them. UsageError for anything else."""
        value = getattr(self, option)
        patterns = (value,) if isinstance(value, str) else value
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(each, str) and each for each in patterns):
            raise UsageError(f"{self.name}: {option} must be patterns of names, got {value!r}")
        object.__setattr__(self, option, tuple(patterns))

    def check_choice(self, option: str, choices: Iterable[str]) -> None:
        """UsageError unless the option is one of `choices`."""
        value = getattr(self, option)
        allowed = list(choices)
        if not isinstance(value, str) or value not in allowed:
            raise UsageError(f"{self.name}: {option} must be one of {', '.join(allowed)}, got {value!r}")
