"""How far long work is: what calls report, and the line that shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Protocol

_BAR = 30
_FRAME = 0.1  # seconds between two drawings on a terminal
_QUIET = 5.0  # seconds without a line elsewhere
_PATIENCE = 30.0  # seconds after which a line comes without 10 % of progress
_KNOWN = 2.0  # seconds of work after which the time left is worth telling


class Progress(Protocol):
    """Called when a part of the work is done; from one thread at a time."""

    def __call__(self, stage: str, done: float, total: float) -> None:
        """stage: what it is, or whose turn it was. done: 0 to total. Another total, or less done: new work began."""


class ProgressLine:
    """A bar with the time left on a terminal; elsewhere a line after every tenth of the work, or every 30 seconds.

    stream: where to; None shows nothing. clock: seconds, ascending.
    The first line outside of terminals comes after 5 seconds, so that short work stays silent.
    """

    def __init__(self, stream: IO[str] | None = sys.stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream is not None and stream.isatty()
        self._work: tuple[float, float] = (0.0, 0.0)  # done and total of the last call
        self._began = self._shown_at = clock()
        self._shown = 0.0  # the part of the work that the last line told
        self._drawn = False

    def __call__(self, stage: str, done: float, total: float) -> None:
        """See `Progress`."""
        now = self._clock()
        if total != self._work[1] or done < self._work[0]:
            self._began, self._shown = now if self._work[1] else self._began, 0.0
        self._work = (done, total)
        part = min(max(done / total, 0.0), 1.0) if total > 0 else 1.0
        if self._stream is None or not self._is_due(now - self._shown_at, int(10 * part) > int(10 * self._shown)):
            return
        left = _time_left(now - self._began, part)
        if self._terminal:
            filled = int(_BAR * part)
            bar = f"[{'#' * filled}{'.' * (_BAR - filled)}]"
            self._stream.write(f"\r{bar} {part:4.0%} {left:12} {_printable(stage)[-28:]:28}")
            self._drawn = True
        else:
            self._stream.write(f"{part:4.0%} {_printable(stage)}{left and f', {left}'}\n")
        self._stream.flush()
        self._shown_at, self._shown = now, part

    def close(self) -> None:
        """Clears the bar."""
        if self._drawn and self._stream is not None:
            self._stream.write("\r" + " " * 79 + "\r")
            self._stream.flush()
            self._drawn = False

    def _is_due(self, waited: float, grown: bool) -> bool:
        if self._terminal:
            return waited >= _FRAME
        return waited >= _PATIENCE or (grown and waited >= _QUIET)


def _time_left(elapsed: float, part: float) -> str:
    """At the speed so far; nothing where that says little."""
    if elapsed < _KNOWN or not 0.01 <= part < 1.0:
        return ""
    minutes, seconds = divmod(round(elapsed * (1 - part) / part), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}") + " left"


def _printable(text: str) -> str:
    """Without control characters: stages may be names from strangers' files."""
    return "".join(c if c.isprintable() else "?" for c in text)
