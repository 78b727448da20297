"""Outputs that are complete or absent: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tersor.errors import OutputError

_MARK = ".tersor-tmp-"
_STALE_SECONDS = 24 * 3600


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only when the block ends without an error.

    Raises OutputError if `path` exists (unless `force`), cannot be written, or the disk is full. On any error
    the temporary file is removed and what stood at `path` before is untouched.
    """
    check_output(path, force=force)
    target = Path(path).absolute()
    _remove_stale(target)
    with _output_errors(target):
        fd, name = tempfile.mkstemp(prefix=f"{target.name}{_MARK}", dir=target.parent)
    temporary = Path(name)
    try:
        with _output_errors(target, also_reading=True), os.fdopen(fd, "w+b") as file:
            yield file
            with _output_errors(target):
                file.flush()
                os.fsync(file.fileno())
        with _output_errors(target):
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A folder that appears at `path` only when the block ends without an error. Yields where to write.

    Raises as `atomic_file`. With `force`, a folder that stood at `path` is replaced as a whole.
    """
    check_output(path, force=force)
    target = Path(path).absolute()
    _remove_stale(target)
    with _output_errors(target):
        temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}{_MARK}", dir=target.parent))
    try:
        with _output_errors(target, also_reading=True):
            yield temporary
        with _output_errors(target):
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            temporary.chmod(0o777 & ~_umask())
            retired = None
            if target.exists():
                retired = Path(tempfile.mkdtemp(prefix=f"{target.name}{_MARK}", dir=target.parent)) / "old"
                os.rename(target, retired)
            try:
                os.rename(temporary, target)
            except OSError:
                if retired is not None:
                    os.rename(retired, target)
                raise
            finally:
                if retired is not None:
                    shutil.rmtree(retired.parent, ignore_errors=True)
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raises OutputError if `path` exists (unless `force`) or lies in a folder that does not."""
    target = Path(path).absolute()
    with _output_errors(target):
        if not target.parent.is_dir():
            raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
        empty_folder = target.is_dir() and not any(target.iterdir())
        exists = target.exists()
    if exists and not force and not empty_folder:
        raise OutputError(f"{path} exists already; pass --force (force=True) to replace it, or name another output")


def check_output_file(path: str | os.PathLike[str]) -> None:
    """Raises OutputError for what no file can replace: a folder, or a path in a folder that does not exist."""
    check_output(path, force=True)
    if Path(path).is_dir():
        raise OutputError(f"{path}: is a folder; name a file")


def _remove_stale(target: Path) -> None:
    """Removes temporaries of `target` that a crash left behind more than a day ago (younger ones may be in use)."""
    for left in target.parent.glob(f"{_escaped(target.name)}{_MARK}*"):
        try:
            if time.time() - left.stat().st_mtime < _STALE_SECONDS:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
        except OSError:
            continue  # another process removed it, or owns it


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO,
)  # fmt: skip


@contextmanager
def _output_errors(target: Path, *, also_reading: bool = False) -> Iterator[None]:
    """Turns errors of writing into OutputError. also_reading: only those that reading inputs cannot cause."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"{target}: the disk is full; nothing was written. Free some space and run again"
            ) from error
        if error.errno in _REFUSED and not also_reading:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); nothing was written") from error
        raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
