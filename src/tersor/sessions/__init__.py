"""Compression inside a training loop."""

from tersor.sessions.log import Log
from tersor.sessions.prepare import prepare
from tersor.sessions.session import Session
from tersor.sessions.teaching import Teaching

__all__ = ["Log", "Session", "Teaching", "prepare"]
