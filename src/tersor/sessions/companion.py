"""What goes along with a session: called after each of its steps, and kept in its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tersor.errors import ResumeError


class Companion(Protocol):
    """Something that acts between steps, such as `SizeControl`; `Session.accompany` takes it."""

    def step(self, done: int) -> None:
        """After the session's own work of a step. done: optimizer steps so far."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on, in plain types and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


def kinds(companions: Sequence[Companion]) -> list[str]:
    """The names of their classes."""
    return [type(one).__name__ for one in companions]


def check_companions(saved: Sequence[str], here: Sequence[Companion]) -> None:
    """ResumeError, naming both, unless the state is of a session with the same companions."""
    if list(saved) != kinds(here):
        raise ResumeError(
            f"the state was saved with {', '.join(saved) or 'nothing'} beside the session, but this one has "
            f"{', '.join(kinds(here)) or 'nothing'}; make the same before loading"
        )
