"""Codes of a trellis and their indices: the slow, obvious twin of csrc/coding/trellis_{states,path}."""

import numpy as np

NEXT = {
    1: np.array([[0, 0]], np.uint8),
    4: np.array([[0, 2], [2, 0], [1, 3], [3, 1]], np.uint8),
    8: np.array([[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]], np.uint8),
}
"""The state after k even and k odd."""

Q1 = {
    1: np.array([False]),
    4: np.array([False, False, True, True]),
    8: np.array([False, True] * 4),
}
"""Whether a state's codes are those of Q1."""


def to_indices(codes, states=8, mask=None):
    """(k, state before the weight), int16 and uint8 (rows, N), of codes (rows, N). ValueError if they are no path."""
    q = codes.astype(np.int32)
    k = np.empty(q.shape, np.int16)
    before = np.empty(q.shape, np.uint8)
    state = np.zeros(q.shape[0], np.uint8)
    for j in range(q.shape[1]):
        column = q[:, j] if mask is None else np.where(mask[:, j], q[:, j], 0)
        before[:, j] = state
        odd_grid = Q1[states][state]
        if states > 1:
            fits = np.where(odd_grid, (column % 2 == 1) | (column == 0), column % 2 == 0)
            if not fits.all():
                raise ValueError(f"row {np.flatnonzero(~fits)[0]}, column {j}")
        index = column if states == 1 else np.where(odd_grid, (column + np.sign(column)) // 2, column // 2)
        k[:, j] = index
        state = _advanced(states, state, index, None if mask is None else mask[:, j])
    return k, before


def from_indices(indices, states=8, mask=None):
    """The inverse of `to_indices`: q int32 (rows, N) of k (rows, N)."""
    k = indices.astype(np.int32)
    if states == 1:
        return k
    q = np.empty(k.shape, np.int32)
    state = np.zeros(k.shape[0], np.uint8)
    for j in range(k.shape[1]):
        column = k[:, j]
        q[:, j] = 2 * column - np.where(Q1[states][state], np.sign(column), 0)
        state = _advanced(states, state, column, None if mask is None else mask[:, j])
    return q


def _advanced(states, state, index, kept):
    following = NEXT[states][state, index & 1]
    return following if kept is None else np.where(kept, following, state)
