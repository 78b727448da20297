"""Compression inside a training loop."""

from tersor.sessions.log import Log
from tersor.sessions.packing import packed
from tersor.sessions.prepare import prepare
from tersor.sessions.session import Session
from tersor.sessions.size_control import SizeControl
from tersor.sessions.teaching import Teaching

__all__ = ["Log", "Session", "SizeControl", "Teaching", "packed", "prepare"]
