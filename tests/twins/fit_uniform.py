"""The slow, obvious twin of csrc/quantization/fit_uniform.cpp and level_errors.cpp: same steps and codes to the bit."""

import math
from dataclasses import dataclass

import numpy as np

SWEEP_RATIO = 0.957603280698573647
TINY_SWEEP_RATIO = 0.99459942348363317
TINY_GROUP = 32
TINY_TOP = 1.25
BATCH = 4
FINE_RATIOS = (
    1.01088928605170047,
    1.00271127505020249,
    1.00067713069306641,
    1.00016923970530222,
    1.00004230724139582,
)
LEVEL_LIMIT = 2.0**20
GRID_WEIGHTS = 8
GRID_GAIN = 4
GRID_ROUNDS = 2
GRID_ERROR = 0.06


def lane_sum(values):
    """Sum of float64 values in 4 lanes, value i in lane i mod 4."""
    padded = np.zeros(-(-values.size // 4) * 4)
    padded[: values.size] = values
    lanes = np.add.accumulate(padded.reshape(-1, 4), axis=0)[-1]
    return float((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]))


@dataclass
class Levels:
    step: float
    low: float
    error: float = math.inf


@dataclass
class Search:
    values: np.ndarray  # float32, the kept ones, times 2^-exponent
    exponent: int
    bits: int
    kind: str
    step_bits: int

    def __post_init__(self):
        self.low = float(self.values.min())
        self.high = float(self.values.max())
        self.largest = max(abs(self.low), abs(self.high))
        self.floor = self.largest / LEVEL_LIMIT
        self.span = 2.0**self.bits - 1
        self.half = 2.0 ** (self.bits - 1)

    def rounded(self, step, up=False):
        mantissa, exponent = math.frexp(step)
        scaled = math.ldexp(mantissa, self.step_bits)
        whole = math.ceil(scaled) if up else round(scaled)
        rounded = math.ldexp(whole, exponent - self.step_bits)
        if self.exponent == 0:
            return float(np.float32(rounded))
        largest = math.ldexp(2.0 - math.ldexp(2.0, -self.step_bits), 127)
        final = np.float32(min(math.ldexp(rounded, self.exponent), largest))
        if final == 0:
            final = np.float32(2.0**-149)
        return float(np.float32(math.ldexp(float(final), -self.exponent)))

    def judged(self, step, low):
        """Levels with their error: 8 float32 lanes a block of 4096 values, lanes added as a tree in double."""
        low = min(max(low, -LEVEL_LIMIT), LEVEL_LIMIT)
        inverse = np.float32(1) / np.float32(step)
        total = 0.0
        for start in range(0, self.values.size, 4096):
            x = self.values[start : start + 4096] * inverse
            e = x - np.rint(np.clip(x, np.float32(low), np.float32(low + self.span)))
            squares = np.zeros(-(-x.size // 8) * 8, np.float32)
            squares[: x.size] = e * e
            lanes = np.add.accumulate(squares.reshape(-1, 8), axis=0, dtype=np.float32)[-1].astype(np.float64)
            halves = lanes[:4] + lanes[4:]
            total += float((halves[0] + halves[2]) + (halves[1] + halves[3]))
        return Levels(step, low, total * (step * step))

    def starts(self, step):
        if self.kind == "positive":
            return [-self.half]
        if self.kind == "symmetric":
            return [-self.half, 1 - self.half]
        low = self.low / step
        slack = self.high / step - self.span - low
        count = 5 if self.bits <= 4 else 3
        return [float(round(low + slack * i / (count - 1))) for i in range(count)]

    def sweep(self, top):
        tiny = self.values.size < TINY_GROUP
        ratio = 0.5 if self.step_bits == 1 else TINY_SWEEP_RATIO if tiny else SWEEP_RATIO
        step = top * TINY_TOP if tiny and self.step_bits > 1 else top
        if self.step_bits == 1:
            step = self.rounded(step, True)
        best = [Levels(0.0, 0.0) for _ in self.starts(self.rounded(step, True))]
        first = more = True
        while more and step >= self.floor:
            for _ in range(BATCH):
                if step < self.floor:
                    break
                snapped = self.rounded(step, first)
                last = [self.judged(snapped, low) for low in self.starts(snapped)]
                best = [min(b, new, key=lambda levels: levels.error) for b, new in zip(best, last, strict=True)]
                first = False
                step *= ratio
            lowest = min(levels.error for levels in best)
            more = any(new.error - (0.5 * new.step) * (0.5 * new.step) * self.values.size <= lowest for new in last)
        return best

    def low_for(self, levels, step):
        """The lowest level with which `step` covers what `levels` cover."""
        if self.kind != "affine":
            return levels.low
        centre = (levels.low + 0.5 * self.span) * levels.step / step
        return float(round(centre - 0.5 * self.span))

    def refined(self, best):
        for ratio in FINE_RATIOS:
            if ratio - 1 < 0.5 * 2.0**-self.step_bits or self.step_bits == 1:
                break
            around = best
            s, r = around.step, ratio
            for step in (s * r, s * r * r, s * r * r * r, s / r, s / r / r, s / r / r / r):
                if step < self.floor:
                    continue
                snapped = self.rounded(step)
                low = self.low_for(around, snapped)
                best = min(best, self.judged(snapped, low), key=lambda levels: levels.error)
        if self.kind == "affine":
            shift = max(1.0, (self.span + 1) / 16)
            while shift >= 1:
                pair = [self.judged(best.step, best.low - shift), self.judged(best.step, best.low + shift)]
                best = min([best, *pair], key=lambda levels: levels.error)
                shift /= 2
        return best

    def fit(self):
        top = self.largest / max(self.half - 1, 1.0)
        if self.kind == "affine":
            top = (self.high - self.low) / self.span
        best = self.sweep(max(top, self.floor))
        if self.kind == "symmetric":
            step = self.rounded(self.largest / self.half, True)
            exact = [self.judged(step, low) for low in self.starts(step)]
            best = [min(b, e, key=lambda levels: levels.error) for b, e in zip(best, exact, strict=True)]
        return self.met_grid(min((self.refined(levels) for levels in best), key=lambda levels: levels.error))

    def least_squares_step(self, levels):
        inverse = np.float32(1) / np.float32(levels.step)
        low, high = np.float32(levels.low), np.float32(levels.low + self.span)
        k = np.rint(np.clip(self.values * inverse, low, high)).astype(np.float64)
        products, squares = lane_sum(self.values.astype(np.float64) * k), lane_sum(k * k)
        return products / squares if squares > 0 else 0.0

    def met_grid(self, best):
        if self.values.size < GRID_WEIGHTS or self.step_bits == 1:
            return best
        if best.error > GRID_ERROR * best.step * best.step * self.values.size:
            return best
        precise = Search(self.values, self.exponent, self.bits, self.kind, 24)
        levels = best
        for _ in range(GRID_ROUNDS):
            step = self.least_squares_step(levels)
            if step < self.floor:
                return best
            snapped = precise.rounded(step)
            levels = self.judged(snapped, self.low_for(levels, snapped))
        return levels if levels.error < math.ldexp(best.error, -2 * GRID_GAIN) else best


def fit_group(values, bits, kind, step_bits):
    """(scale, zero) of one group of kept float32 values."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return np.float32(1), 0
    exponent = 0
    if not 2.0**-60 <= largest <= 2.0**60:
        exponent = math.frexp(largest)[1]
        values = np.ldexp(values.astype(np.float64), -exponent).astype(np.float32)
    search = Search(values, exponent, bits, kind, step_bits)
    levels = search.fit()
    scale = np.float32(math.ldexp(levels.step, exponent))
    if kind == "symmetric" and levels.low != -search.half:
        scale = -scale
    return scale, int(-search.half - levels.low) if kind == "affine" else 0


def codes_of(values, scale, zero, bits):
    """int32 codes of one group: nearest, ties to even."""
    bottom = np.float32(-(2.0 ** (bits - 1)) - zero)
    top = np.float32(2.0 ** (bits - 1) - 1 - zero)
    with np.errstate(over="ignore"):
        return np.rint(np.clip(values / np.float32(scale), bottom, top)).astype(np.int32) + zero
