"""Trellis-coded quantization inside error feedback (dependent quantization, as in VVC).

A row's codes q, multiples of its step D, walk through a state machine that starts in state 0. In half of the states q
must be even (Q0: q = 2k), in the others odd or zero (Q1: q = 2k - sgn k), and the parity of k leads to the next state.
So k has the entropy of a grid twice as coarse, while the paths through the machine fill space as a much finer one does:
8 states gain about 1 dB (Marcellin and Fischer 1990; Schwarz et al. 2021, "Quantization and entropy coding in VVC").
Packed kernels see plain integers q; only the file and its contexts know the states.

Legend: G groups, R rows of a group, N weights of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersor._native import core
from tersor.calibration.damping import Factor
from tersor.coding import STATES
from tersor.errors import UsageError
from tersor.parallel import ordered_map, thread_pool

_ROWS = 16
"""Rows that a thread takes at a time."""


@dataclass(frozen=True)
class Trellis:
    """How codes are searched.

    states:    1 (none: any integer), 4 or 8.
    survivors: paths that are kept in each state, 1 to 16, each with its own residuals. 4 cost 4 % fewer bytes than
               1 in probes.
    limit:     the largest magnitude of a code, 4 to 32767.
    """

    states: int = 8
    survivors: int = 4
    limit: int = 32767

    def __post_init__(self) -> None:
        if self.states not in STATES:
            raise UsageError(f"trellis: states must be 1, 4 or 8, got {self.states!r}")
        if not 1 <= self.survivors <= 16:
            raise UsageError(f"trellis: survivors must be 1 to 16, got {self.survivors!r}")
        if not 4 <= self.limit <= 32767:
            raise UsageError(f"trellis: limit must be 4 to 32767, got {self.limit!r}")


def trellis_codes(
    weight: Tensor,
    steps: Tensor,
    factor: Factor,
    trellis: Trellis | None = None,
    *,
    mask: Tensor | None = None,
    threads: int | None = 1,
) -> tuple[Tensor, Tensor]:
    """Codes int16 (G, R, N), W ~ steps * codes, and the rows' errors (w - D q) (H + a I) (w - D q)^T, float64 (G, R).

    A Viterbi search of each row. Every survivor carries the row's residuals u, from which feedback has taken the
    errors of its own earlier codes: u_k = w_k - sum_{j<k} (u_j - q_j) V_jk; its metric is sum_j ((u_j - q_j) / U_jj)^2.
    In each state the nearest code of either parity is tried.

    weight: (G, R, N), finite (see `Layout.matrices`). steps: (G, R), positive. factor: see `factorize`.
    mask:   bool (G, R, N), False where a weight is pruned: its code is 0 and the state stays.
    The codes depend on nothing but the arguments, `threads` and the instruction set excluded.
    """
    trellis = trellis or Trellis()
    values = (weight.double() / steps.double()[..., None]).to(torch.float32).contiguous().numpy()
    if not np.isfinite(values).all():
        raise UsageError("trellis: weights divided by their steps must be finite in float32")
    kept = None if mask is None else mask.contiguous().numpy()
    feedback = None if factor.feedback is None else factor.feedback.to(torch.float32).contiguous().numpy()
    precision = factor.precision().contiguous().numpy()
    codes = np.zeros(values.shape, np.int16)
    costs = np.zeros(values.shape[:2], np.float64)
    search = (trellis.states, trellis.survivors, trellis.limit)

    def work(begin: int) -> None:
        end = min(begin + _ROWS, costs.size)
        core.trellis_quantize(values, kept, feedback, precision, search, begin, end, codes, costs)

    with thread_pool(threads) as executor:
        for _ in ordered_map(work, range(0, costs.size, _ROWS), executor, cost=lambda _: 1, budget=64):
            pass
    return torch.from_numpy(codes), torch.from_numpy(costs) * steps.double().square()
