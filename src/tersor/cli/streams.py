"""Inputs, outputs and reports of commands: files, or the standard streams as "-"."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tersor.errors import UsageError


@contextmanager
def input_path(name: str) -> Iterator[str]:
    """The path of an input; standard input is copied to a temporary file first, since readers seek."""
    if name != "-":
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


@contextmanager
def output_file(name: str, force: bool) -> Iterator[Any]:
    """A binary file that appears when the block ends without an error; or standard output."""
    from tersor.files import atomic_file

    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_file(name, force=force) as file:
        yield file


def output_name(options: argparse.Namespace, path: str, suffix: str) -> str:
    """The output that was asked for, or else the input's name with another suffix.

    UsageError where that is the input itself, or where standard input leaves no name to go by.
    """
    given = options.input if hasattr(options, "input") else options.file
    if options.output is not None:
        same = os.path.exists(options.output) and os.path.exists(path) and os.path.samefile(options.output, path)
        if same:
            raise UsageError(f"{options.output}: the output is the input; name another with -o")
        return str(options.output)
    if given == "-":
        raise UsageError("standard input has no name for the output to follow; give -o (- is standard output)")
    source = Path(path)
    name = source.name if source.is_dir() else source.stem
    target = source.with_name(name + suffix) if name else source.resolve().with_name(source.resolve().name + suffix)
    if target.name == source.name:
        raise UsageError(f"{path}: the output would be named as the input; name another with -o")
    return str(target)


def print_report(options: argparse.Namespace, report: dict[str, Any], text: str, *, to_stderr: bool = False) -> None:
    """The report as JSON where that was asked for, else the text."""
    stream = sys.stderr if to_stderr else sys.stdout
    print(json.dumps(report, indent=2) if options.json else text, file=stream)
