"""JSON and YAML as plain Python values, strictly: a key that is there twice is an error, and 1e-3 is a number."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tersor.errors import MissingExtraError, UsageError

_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""Numbers that YAML 1.1 takes for text where they have no point, or no sign of the exponent."""


def parse(text: str, name: str) -> Any:
    """The values of a text in JSON or YAML. name: of its file; one that ends in ".json" is not tried as YAML.

    JSON needs no extra; YAML does, else MissingExtraError. UsageError for a text that is neither, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except json.JSONDecodeError as error:
        if name.endswith(".json"):
            raise UsageError(f"not valid JSON ({error})") from error
    return _yaml(text, name)


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UsageError(f"the key {_twice(keys)!r} is there twice in {{{', '.join(keys)}}}; keep one")
    return found


def _twice(keys: Sequence[Any]) -> Any:
    """The first key that was there before; None if there is none."""
    return next((key for number, key in enumerate(keys) if key in keys[:number]), None)


def _yaml(text: str, name: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(f"{name}: YAML recipes need PyYAML; run: pip install 'tersor[yaml]'") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            again = _twice([key for key in keys if key != "<<"])
            if again is not None:
                place = f"line {node.start_mark.line + 1}"
                raise UsageError(f"the key {again!r} is there twice in the mapping that begins in {place}; keep one")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"not valid YAML ({error})") from error
