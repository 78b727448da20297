"""Adaptive contexts that one stream hands to the next."""

from __future__ import annotations

from tersor._native import core


class State:
    """What the adaptive coders have learned so far in a chunk. Opaque; a fresh one knows nothing.

    Encoding streams in some order, and decoding them in the same order, each from a fresh `State`, takes it
    through the same steps. Only the methods ADAPTIVE and MASK_BITS (also inside PLANES and MASK_RUNS) change
    it. After a `CorruptStreamError` what it holds is undefined.
    """

    def __init__(self) -> None:
        """A state that has learned nothing."""
        self.native = core.CodingState()

    def copy(self) -> State:
        """An independent state with the same contents."""
        other = State.__new__(State)
        other.native = self.native.copy()
        return other

    def become(self, other: State) -> None:
        """Takes the contents of `other`, a trial that was worth keeping and is not used any more."""
        self.native = other.native
