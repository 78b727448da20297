"""The slow, obvious twins of csrc/disguise: the same hints, books, steps and levels to the bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

MOST_LEVELS = 255
MOST_DISTINCT = MOST_LEVELS + 3
LONGEST_GROUP = 256
OTHER_ZERO = -32768
WIDEN = 1e-13
OFFSET_FORMULAS = [3, 7, 15, 31, 63, 255]
ZERO_FORMULAS = [3, -4, 7, -8, 15, -16, 127, -128]  # negative: of the weight's sign
BITS = {"single": (23, -126), "half": (10, -14), "bfloat": (7, -126)}


def order_key(word, order, width):
    """A number in whose order words are sorted."""
    top = 1 << (width - 1)
    if order == "unsigned_integer":
        return word
    if order == "signed_integer":
        return word ^ top
    return (1 << width) - 1 - word if word & top else word | top


def distinct_words(words, order, skip_zeros, most):
    """(book, codes) as lists, or None if there are more than `most` words."""
    width = 8 * words.itemsize
    wanted = {int(word) for word in words if not (skip_zeros and word == 0)}
    if len(wanted) > most:
        return None
    book = sorted(wanted, key=lambda word: order_key(word, order, width))
    place = {word: rank for rank, word in enumerate(book)}
    return book, [place.get(int(word), 0) for word in words]


def round_to(x, precision):
    """float32 `x` rounded to the precision of a narrower float, as float32."""
    x = np.float32(x)
    if precision == "half":
        with np.errstate(over="ignore"):
            return np.float32(np.float16(x))
    if precision == "bfloat":
        raw = int(x.view(np.uint32))
        kept = (raw + 0x7FFF + (raw >> 16 & 1)) & 0xFFFF0000
        return np.uint32(kept).view(np.float32)
    return x


def slack(x, precision):
    """How far below and above x > 0 a number may be that rounds to it."""
    bits, least = BITS[precision]
    fraction, exponent = math.frexp(float(x))
    exponent -= 1
    ulp = math.ldexp(1.0, max(exponent, least) - bits)
    return (ulp / 4 if fraction == 0.5 and exponent > least else ulp / 2), ulp / 2


def common_step(numbers):
    """(low, high, levels) of the largest step of which the intervals `numbers` hold multiples, or None."""
    if not numbers or not numbers[0][0] > 0:
        return None
    guess = numbers[0]
    for _ in range(12):
        low, high = guess
        if numbers[-1][0] > (MOST_LEVELS + 0.5) * high:
            return None
        levels = []
        for near, far in numbers:
            nearest = max(1.0, float(np.rint((near + far) / 2 / ((low + high) / 2))))
            smallest, largest = max(low, near / nearest * (1 - WIDEN)), min(high, far / nearest * (1 + WIDEN))
            if smallest > largest:
                over = near - nearest * high
                guess = (over, far - nearest * low) if over > 0 else (nearest * low - far, nearest * high - near)
                break
            low, high = smallest, largest
            levels.append(int(nearest))
        else:
            return None if levels[-1] > MOST_LEVELS else (low, high, levels)
        if not guess[0] > 0:
            return None
    return None


def simplest_between(low, high):
    """The float32 in [low, high] that ends in the most zero bits, or None."""
    first, last = np.float32(low), np.float32(high)
    if Fraction(float(first)) < Fraction(low):
        first = np.nextafter(first, np.float32(np.inf))
    if np.isfinite(last) and Fraction(float(last)) > Fraction(high):
        last = np.nextafter(last, np.float32(0))
    if not first <= last or not np.isfinite(last):
        return None
    a, b = int(first.view(np.uint32)), int(last.view(np.uint32))
    for drop in range(23, -1, -1):
        candidate = b >> drop << drop
        if candidate >= a and candidate > 0:
            return np.uint32(candidate).view(np.float32)
    return last


def trial_steps(low, high):
    """The steps in [low, high] that are tried, in order."""
    yield round_to(np.float32((low + high) / 2), "half")
    simplest = simplest_between(low, high)
    if simplest is not None:
        yield simplest
    step = np.float32(low)
    for _ in range(7):
        if float(step) <= high * (1 + 1e-7):
            yield step
        step = np.nextafter(step, np.float32(np.inf))


def value_at(level, step, offset, precision):
    """level * step, or level * step + offset, rounded as a tensor of that precision holds it."""
    with np.errstate(over="ignore", under="ignore"):
        product = np.float32(level) * np.float32(step)
        return round_to(product if offset is None else product + np.float32(offset), precision)


def same(a, b):
    return np.float32(a).view(np.uint32) == np.float32(b).view(np.uint32)


class GridFitter:
    """Fits runs one after the other; the formula that fitted last is tried first."""

    def __init__(self, form, precision):
        self.shifted = form == "offset"
        self.precision = precision
        self.formula = 0

    def fit(self, x):
        """(levels, step, offset) of a run, or None."""
        found = None
        if len(x) <= LONGEST_GROUP and self.precision == "single":
            found = self._by_formula(x)
        return found or self._by_values(x)

    def _by_formula(self, x):
        if not np.isfinite(x).all() or x.min() == x.max():
            return None
        smallest, largest = x.min(), x.max()
        formulas = OFFSET_FORMULAS if self.shifted else ZERO_FORMULAS
        for trial in range(len(formulas)):
            chosen = (self.formula + trial) % len(formulas)
            levels = formulas[chosen]
            extreme = largest if largest >= -smallest else smallest
            with np.errstate(over="ignore"):
                top = largest - smallest if self.shifted else extreme if levels < 0 else abs(extreme)
                step = round_to(np.float32(top) / np.float32(levels), "half")
            if step == 0 or not np.isfinite(step):
                continue
            offset = smallest if self.shifted else None
            inverse = np.float32(1) / step
            shift = x - smallest if self.shifted else x
            multiples = [int(np.rint(distance * inverse)) for distance in shift]
            if all(same(value_at(k, step, offset, "single"), w) for k, w in zip(multiples, x, strict=True)):
                self.formula = chosen
                return multiples, step, smallest if self.shifted else np.float32(0)
        return None

    def _by_values(self, x):
        distinct = {int(word) for word in x.view(np.uint32)}
        values = np.array(sorted(distinct), np.uint32).view(np.float32)
        if not np.isfinite(x).all() or len(distinct) > MOST_DISTINCT:
            return None
        zeros = [np.signbit(value) for value in values if value == 0]
        if self.shifted and any(zeros):
            return None
        flipped = zeros == [True]
        values = sorted(values, key=(lambda value: value) if self.shifted else abs)
        offset = values[0] if self.shifted else None
        rest = values[1 if self.shifted else len(zeros) :]
        found = self._step(rest, offset) if rest else (np.float32(0), [])
        if found is None:
            return None
        step, multiples = found
        level_of = {}
        for value, k in zip(rest, multiples, strict=True):
            negative = not self.shifted and np.signbit(value) != flipped
            level_of[int(value.view(np.uint32))] = -k if negative else k
        for value in values[: len(values) - len(rest)]:
            other = not self.shifted and not flipped and np.signbit(value)
            level_of[int(value.view(np.uint32))] = OTHER_ZERO if other else 0
        levels = [level_of[int(word)] for word in x.view(np.uint32)]
        return levels, -step if flipped else step, values[0] if self.shifted else np.float32(0)

    def _step(self, values, offset):
        range_ = common_step([self._distance(value, offset) for value in values])
        if range_ is None:
            return None
        low, high, multiples = range_
        for step in trial_steps(low, high):
            if not step > 0 or not np.isfinite(step):
                continue
            if self.shifted:
                products = [value_at(k, step, offset, self.precision) for k in multiples]
            else:
                products = [
                    np.copysign(value_at(k, step, None, self.precision), value)
                    for k, value in zip(multiples, values, strict=True)
                ]
            if all(same(a, b) for a, b in zip(products, values, strict=True)):
                return step, multiples
        return None

    def _distance(self, value, offset):
        below, above = slack(abs(value), self.precision) if value != 0 else slack(np.float32(0), self.precision)
        if offset is None or offset == 0:
            return abs(float(value)) - below, abs(float(value)) + above
        exact = abs(float(value) - float(offset))
        widest = max(below, above) + slack(np.float32(exact), "single")[1]
        return exact - widest, exact + widest
