"""Optional packages, imported when a file needs them."""

from __future__ import annotations

import importlib
from typing import Any

from tersor.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """The imported `module`. MissingExtraError says which extra of tersor installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this kind of file needs the package {module!r}; install it with: pip install 'tersor[{extra}]'"
        ) from error
