"""Codes that are paths through a trellis, as the indices that are stored for them.

A row's codes q walk through a state machine that starts in state 0 (csrc/coding/trellis_states.hpp). In half of the
states q = 2k, in the others q = 2k - sgn k, and the parity of k leads to the next state; pruned weights leave it. What
the coders see is k, which is half as large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor._native import core
from tersor.coding.methods import CorruptStreamError
from tersor.errors import MismatchError

STATES = (1, 4, 8)
"""Numbers of states; with 1 there is no trellis and k = q."""

Codes = NDArray[np.int8] | NDArray[np.int16]


def to_indices(codes: Codes, row_length: int, states: int, kept: NDArray[np.bool_] | None = None) -> Codes:
    """Indices k of codes q, of the same dtype; 0 where pruned.

    codes: (N,) contiguous int8 or int16, rows of `row_length` one after the other. kept: bool (N,).
    Raises MismatchError if the codes are no path through the trellis.
    """
    indices = np.empty_like(codes)
    misfit = core.trellis_indices(codes, indices, row_length, states, None if kept is None else kept.view(np.uint8))
    if misfit is not None:
        row, column = divmod(misfit, row_length)
        raise MismatchError(
            f"the code {codes[misfit]} of row {row}, column {column} is not on a path through {states} states"
        )
    return indices


def into_codes(indices: Codes, row_length: int, states: int, bits: int, kept: NDArray[np.bool_] | None = None) -> None:
    """The inverse of `to_indices`, in place. CorruptStreamError if a code leaves the range of `bits`."""
    if not core.trellis_codes(indices, row_length, states, bits, None if kept is None else kept.view(np.uint8)):
        raise CorruptStreamError(f"an index of a trellis leads to a code of more than {bits} bits")
