"""Counters, logistic mixing and the binary arithmetic coder: the twin of csrc/coding/{logistic,counter,mixer}.hpp
and binary_arithmetic.hpp.

One class does both directions: an encoder is given the decisions, a decoder the bytes.
"""

from __future__ import annotations

from math import exp

from tests.twins.bits import Corrupt

SIGMOID = [round(65536 / (1 + exp(-x / 2))) for x in range(-16, 17)]
LIMIT = 500


def squash(logit):
    below, part = divmod(logit + 2048, 128)
    return (SIGMOID[below] * (128 - part) + SIGMOID[below + 1] * part + 64) >> 7


def _stretch_table():
    table, logit = [], -2047
    for p in range(8, 65536, 16):
        while logit < 2047 and squash(logit) < p:
            logit += 1
        table.append(logit)
    return table


STRETCH = _stretch_table()


class Counter:
    def __init__(self, probability=None, seen=0):
        self.p = None if probability is None else probability << 6  # in 2^-22; None: knows nothing
        self.seen = seen

    def update(self, decision):
        error = (2**22 - 1 if decision else 0) - self.p
        self.p += error * (2**17 // (2 * self.seen + 3)) >> 16
        self.seen = min(self.seen + 1, LIMIT)


def mixer_weights(count):
    return [65536 * 9 // (8 * count)] * count


def clamp(value, least, most):
    return min(max(value, least), most)


def code_mixed(coder, counters, weights, decision):
    for counter in counters:
        if counter.p is None:
            counter.p, counter.seen = counters[0].p, min(counters[0].seen, 4)
    logits = [STRETCH[counter.p >> 10] for counter in counters]
    total = sum(logit * (weight >> 2) for logit, weight in zip(logits, weights, strict=True))
    p = squash(clamp(total >> 14, -2047, 2047))
    decision = coder.code(decision, p)
    error = 65536 * decision - p
    for i, logit in enumerate(logits):
        weights[i] = clamp(weights[i] + (logit * error + 2**17 >> 18), 1 - 2**18, 2**18 - 1)
        counters[i].update(decision)
    return decision


def code_alone(coder, counter, decision):
    decision = coder.code(decision, clamp(counter.p >> 6, 24, 65536 - 24))
    counter.update(decision)
    return decision


class Coder:
    """A binary arithmetic coder; `data` is None when encoding."""

    def __init__(self, data=None):
        self.data = data
        self.out = bytearray()
        self.low, self.high = 0, 2**32 - 1
        self.position = 0
        self.value = 0
        if data is not None:
            for _ in range(4):
                self._shift_in()

    def _shift_in(self):
        byte = self.data[self.position] if self.position < len(self.data) else 0
        self.position += 1
        self.value = self.value << 8 & 0xFFFFFFFF | byte

    def code(self, decision, probability):
        cut = self.low + ((self.high - self.low) * probability >> 16)
        if self.data is not None:
            decision = self.value <= cut
        if decision:
            self.high = cut
        else:
            self.low = cut + 1
        while self.low >> 24 == self.high >> 24:
            self.out.append(self.high >> 24)
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 0xFF
            if self.data is not None:
                self._shift_in()
        return bool(decision)

    def finish(self):
        if self.low:
            self.out.append((self.low >> 24) + 1)
        if self.data is not None and bytes(self.out) != self.data:
            raise Corrupt("other bytes than an encoder writes")
        return bytes(self.out)
