"""The bytes of a file that is read at random: mapped where it is a real file, so that nothing is copied."""

from __future__ import annotations

import io
import mmap
import os
import stat
import threading
from typing import IO

from tersor.errors import CorruptFileError, InputError, UsageError


class Source:
    """An open file of `size` bytes, called `name` in messages. Reads may come from several threads.

    file: a path, or a seekable binary file. Must not be truncated while it is open.
    Raises UsageError for what is neither, InputError where it cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        if isinstance(file, (str, os.PathLike)):
            self.name = os.fspath(file)
            try:
                self._file: IO[bytes] = open(file, "rb")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise InputError(f"{self.name}: cannot be read ({error.strerror})") from error
        else:
            if isinstance(file, io.TextIOBase) or not callable(getattr(file, "seek", None)):
                raise UsageError(f"expected the path of a .tsr file, or one that is open for bytes, got {file!r}")
            self.name = str(getattr(file, "name", "<stream>"))
            self._file = file
        self._lock = threading.Lock()
        try:
            self.size = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            self._file.close()
            raise InputError(f"{self.name}: cannot be read at random ({error}); copy it to a file") from error
        self._map = _mapped(self._file, self.size)

    def read(self, offset: int, size: int) -> memoryview:
        """The bytes [offset, offset + size). CorruptFileError if the file ends before."""
        if self._map is not None:
            data = memoryview(self._map)[offset : offset + size]
        else:
            with self._lock:
                try:
                    self._file.seek(offset)
                    data = memoryview(self._file.read(size))
                except OSError as error:
                    raise InputError(f"cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise CorruptFileError("the file ends early; it is truncated")
        return data

    def close(self) -> None:
        """Closes the file. The map goes when the last view of it is gone."""
        self._map = None
        self._file.close()


def _mapped(file: IO[bytes], size: int) -> mmap.mmap | None:
    """A read-only map of a regular file; None for what is not one (streams in memory, devices, empty files)."""
    if not isinstance(file, (io.BufferedReader, io.FileIO)):
        return None
    try:
        number = file.fileno()
        if size == 0 or not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        return mmap.mmap(number, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
