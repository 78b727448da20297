"""The command line."""

from tersor.cli.program import main

__all__ = ["main"]
