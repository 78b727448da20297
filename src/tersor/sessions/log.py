"""What a session writes down: a line of JSON every few steps, and TensorBoard's events where asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from tersor.errors import MissingExtraError, OutputError, UsageError
from tersor.files import atomic_file, check_output_file
from tersor.sessions.arguments import as_path


class Log:
    """Lines of JSON in a file, one object a record, each with "step" (optimizer steps done).

    path:   of the file, which is appended to; None for no file.
    every:  optimizer steps between two records. bytes_every: between two that hold the size of the `.tsr` file that
            the network would make then, which costs as much as compressing it; 0 for never.
    tensorboard: folder for TensorBoard's events of the same numbers.
    Raises UsageError for numbers out of range, MissingExtraError without TensorBoard, OutputError as files do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        every: int = 10,
        bytes_every: int = 0,
        tensorboard: str | os.PathLike[str] | None = None,
    ) -> None:
        for option, value, least in (("every", every, 1), ("bytes_every", bytes_every, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"log: {option} must be an integer from {least} upwards, got {value!r}")
        self.path = None if path is None else as_path("log", path)
        self.every = every
        self.bytes_every = bytes_every
        if self.path is not None:
            check_output_file(self.path)
        self._events = None if tensorboard is None else _writer(tensorboard)

    def due(self, step: int) -> bool:
        """Whether there is a record after this step."""
        return step % self.every == 0 or self.measures(step)

    def measures(self, step: int) -> bool:
        """Whether that record holds a file's size."""
        return self.bytes_every > 0 and step % self.bytes_every == 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record: JSON types; a number that is not finite becomes null. OutputError if it cannot."""
        plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(plain) + "\n")
            except OSError as error:
                raise OutputError(f"{self.path}: the log cannot be written ({error.strerror or error})") from error
        if self._events is not None:
            for key, value in plain.items():
                if key != "step" and isinstance(value, (int, float)):
                    self._events.add_scalar(key, value, plain["step"])

    def rewind(self, step: int) -> None:
        """Removes what was recorded after `step`, and lines that were cut off: a run goes on from there."""
        if self.path is None or not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        with atomic_file(self.path, force=True) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())

    def close(self) -> None:
        """Writes out TensorBoard's events."""
        if self._events is not None:
            self._events.close()


def as_log(log: Log | str | os.PathLike[str] | None) -> Log | None:
    """A path is a log with a record every ten steps."""
    return log if log is None or isinstance(log, Log) else Log(log)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _writer(folder: str | os.PathLike[str]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "log: tensorboard=... needs TensorBoard, which is not installed; run: pip install tensorboard"
        ) from error
    return SummaryWriter(os.fspath(folder))
