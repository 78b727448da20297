"""Adaptive contexts that one stream hands to the next."""

from __future__ import annotations


class State:
    """What the adaptive coders have learned so far in a chunk. Opaque; a fresh one knows nothing.

    Encoding streams in some order and decoding them in the same order, each from a fresh `State`, takes it through
    the same steps. Only the methods ADAPTIVE and MASK_BITS (also inside PLANES and MASK_RUNS) change it.
    """

    def copy(self) -> State:
        """An independent state with the same contents."""
        return State()
