"""Small JSON texts with a version, as they travel in files beside tensors: read as what a stranger may have written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tersor.errors import TersorError

_Found = TypeVar("_Found")

_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What taking a JSON text apart raises where it is not as expected."""


def read_versioned(
    text: str | bytes,
    build: Callable[[Mapping[str, Any]], _Found],
    *,
    version: int,
    limit: int,
    error: type[TersorError],
    what: str,
) -> _Found:
    """What `build` makes of the JSON object `text`, whose "format" must be `version`.

    build: may take the object's shape on trust, and raise ValueError for values that make no sense.
    limit: of the text, in characters. error, what: what is raised, and said to be damaged, for anything else.
    """
    try:
        if len(text) > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        top = json.loads(text)
        if top["format"] != version:
            raise ValueError(f"it is of format {top['format']!r}; this tersor reads {version}: install a newer one")
        return build(top)
    except _DAMAGE as fault:
        raise error(f"{what} is damaged: {fault}") from fault
