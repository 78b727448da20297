"""The slow, obvious twin of csrc/calibration/trellis.cpp: same codes and costs to the bit."""

from dataclasses import dataclass

import numpy as np

# (next state if k is even, if k is odd), and which quantizer.
MACHINES = {
    1: [(0, 0, "all")],
    4: [(0, 2, "Q0"), (2, 0, "Q0"), (1, 3, "Q1"), (3, 1, "Q1")],
    8: [
        (0, 2, "Q0"),
        (5, 7, "Q1"),
        (1, 3, "Q0"),
        (6, 4, "Q1"),
        (2, 0, "Q0"),
        (4, 6, "Q1"),
        (3, 1, "Q0"),
        (7, 5, "Q1"),
    ],
}


def code(quantizer, k):
    """The code of index k."""
    if quantizer == "all":
        return k
    return 2 * k - (int(np.sign(k)) if quantizer == "Q1" else 0)


def nearest(quantizer, parity, value, limit):
    """The nearest code whose index has this parity; of two, the larger; of opposite ones, the positive."""
    size = min(abs(float(value)), limit)
    best = None
    top = int(size) + 6
    for k in range(parity, top, 2):
        q = code(quantizer, k)
        if q > limit:
            break
        distance = abs(size - q)
        if best is None or distance <= best[0]:
            best = (distance, q)
    return -best[1] if value < 0 else best[1]


@dataclass
class Path:
    cost: float
    residual: np.ndarray  # float32
    codes: list


def quantize_row(values, kept, feedback, precision, states, survivors, limit):
    """(codes, cost) of a row. values float32 (N,), feedback float32 (N, N) or None, precision float64 (N,)."""
    machine = MACHINES[states]
    paths = [[] for _ in machine]
    paths[0] = [Path(0.0, np.array(values, np.float32), [])]
    for j in range(len(values)):
        following = [[] for _ in machine]
        for state, (even, odd, quantizer) in enumerate(machine):
            for path in paths[state]:
                value = path.residual[j]
                if kept is not None and not kept[j]:
                    choices = [(state, 0)]
                else:
                    choices = [(to, nearest(quantizer, parity, value, limit)) for parity, to in ((0, even), (1, odd))]
                for to, q in choices:
                    error = np.float32(value - np.float32(q))
                    cost = path.cost + float(error) * float(error) * float(precision[j])
                    following[to].append((cost, path, q, error))
        paths = [[] for _ in machine]
        for state, candidates in enumerate(following):
            # A stable sort: of equal costs the earlier one wins.
            for cost, path, q, error in sorted(candidates, key=lambda c: c[0])[:survivors]:
                residual = path.residual.copy()
                if feedback is not None:
                    residual[j + 1 :] -= error * feedback[j, j + 1 :]
                paths[state].append(Path(cost, residual, [*path.codes, q]))
    best = min((path for state in paths for path in state), key=lambda path: path.cost)
    return best.codes, best.cost
