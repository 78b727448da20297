"""Compressed models to .tsr files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from torch import nn

from tersor.coding import CodingConfig
from tersor.container.writer import Summary, write_tsr
from tersor.errors import UsageError
from tersor.files import atomic_file
from tersor.model import CompressedModel
from tersor.parallel import thread_pool
from tersor.report.sizes import Sizes, sizes_of


def save(
    model: CompressedModel,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    coder: str = "auto",
    profile: str = "small",
    threads: int | None = None,
    force: bool = False,
) -> Sizes:
    """Writes a compressed model into a .tsr file and returns the measured sizes (print them).

    path: of the file, which appears only when it is complete; or a binary file that is open for writing.
    coder: auto (keep the smallest), rans, huffman, adaptive or raw. profile: small, or fast (no adaptive coder).
    threads: None for one a CPU; the bytes do not depend on it.
    Raises OutputError if `path` exists (unless `force`) or cannot be written, UsageError for unknown options and for
    what is no compressed model.
    """
    if not isinstance(model, CompressedModel):
        raise UsageError(f"save takes a CompressedModel, got {type(model).__name__}{_instead_of(model)}")
    if not isinstance(path, (str, os.PathLike)) and not callable(getattr(path, "write", None)):
        raise UsageError(f"save: path must be a path, or a file that is open for writing, got {path!r}")
    coding = CodingConfig(coder, profile)
    if isinstance(path, (str, os.PathLike)):
        with atomic_file(path, force=force) as file:
            summary = _write(model, file, coding, threads)
    else:
        summary = _write(model, path, coding, threads)
    return sizes_of(summary.index, model.original_bytes, summary.file_bytes)


def _instead_of(model: object) -> str:
    """How to get what can be saved, of something else."""
    if callable(getattr(model, "finalize", None)):
        return ": give session.finalize(), which ends the session"
    if isinstance(model, (nn.Module, Mapping)):
        return ": give tersor.compress(model)"
    if isinstance(model, (str, os.PathLike)):
        return ": the model comes first, then the path"
    made = getattr(model, "compressed", None)
    return ": give its .compressed" + ("()" if callable(made) else "") if made is not None else ""


def _write(model: CompressedModel, file: IO[bytes], coding: CodingConfig, threads: int | None) -> Summary:
    with thread_pool(threads) as executor:
        return write_tsr(
            file,
            model.entries,
            dict(model.attachments),
            source=model.source,
            coding=coding,
            executor=executor,
        )
