"""Compression inside a training loop."""

from tersor.sessions.log import Log
from tersor.sessions.prepare import prepare
from tersor.sessions.session import Session
from tersor.sessions.teaching import Distillation, FromTeacher

__all__ = ["Distillation", "FromTeacher", "Log", "Session", "prepare"]
