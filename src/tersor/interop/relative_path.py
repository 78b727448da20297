"""Paths that come out of a file: inside one folder, on every system, or refused."""

from __future__ import annotations

from typing import Any

from tersor.errors import InputError

_LONGEST_NAME = 255


def checked_path(path: Any, where: str) -> str:
    """`path` if it is a relative posix path that stays below its folder and names no hidden file.

    InputError naming `where` otherwise: absolute paths, drive letters, "..", backslashes, control characters.
    """
    if not isinstance(path, str):
        raise InputError(f"{where}: a path must be text, got {type(path).__name__}")
    bad_character = "\\" in path or ":" in path or not path.isprintable()
    parts = path.split("/")
    bad_part = any(not p or p.startswith(".") or len(p.encode("utf-8", "replace")) > _LONGEST_NAME for p in parts)
    if bad_character or bad_part:
        raise InputError(f"{where}: the path {path!r} leaves its folder or is not portable; refused")
    return path
