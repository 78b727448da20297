"""Context-adaptive binary arithmetic coding: the twin of csrc/binary_arithmetic, adaptive_model and adaptive.

One class does both directions: an encoder is given the decisions, a decoder the bytes.
"""

from __future__ import annotations

from math import exp

from tests.twins.bits import Corrupt

SIGMOID = [round(65536 / (1 + exp(-x / 2))) for x in range(-16, 17)]


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


def bounded(probability):
    return min(max(probability, 24), 65536 - 24)


class Counter:
    def __init__(self):
        self.p = 1 << 21  # in 2^-22
        self.seen = 0

    def update(self, decision):
        error = (2**22 - 1 if decision else 0) - self.p
        self.p += error * (65536 // (self.seen + 2)) >> 16
        self.seen = min(self.seen + 1, 1023)


class Model:
    """Counters and weights, made when first asked for."""

    def __init__(self):
        self.counters = {}
        self.weights = {}

    def counter(self, *key):
        return self.counters.setdefault(key, Counter())

    def code(self, coder, node, first, second, mixer, decision):
        order0 = self.counter(node)
        counters = [order0, self.counter(node, 1, first), self.counter(node, 2, second)]
        for counter in counters:
            if counter.seen == 0:
                counter.p, counter.seen = order0.p, min(order0.seen, 6)
        weights = self.weights.setdefault(mixer, [65536 // 3] * 3)
        logits = [STRETCH[counter.p >> 10] for counter in counters]
        mixed = sum(w * l for w, l in zip(weights, logits, strict=True)) >> 16
        p = bounded(squash(min(max(mixed, -2047), 2047)))
        decision = coder.code(decision, p)
        error = 65536 * decision - p
        for i in range(3):
            step = logits[i] * error + 2**19 >> 20
            weights[i] = min(max(weights[i] + step, -(2**18)), 2**18)
        for counter in counters:
            counter.update(decision)
        return decision

    def code_alone(self, coder, node, decision):
        counter = self.counter(node)
        decision = coder.code(decision, bounded(counter.p >> 6))
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


def level(total):
    if total < 2:
        return total
    width = total.bit_length()
    return min(2 * width - 2 + (total >> (width - 2) & 1), 31)


def neighbours(values, i, geometry):
    """(left, left2, previous, up, up_left, up_right), 0 where the matrix ends."""
    column = i % geometry.row_length

    def at(j, there):
        return values[j] if there else 0

    up, above = i - geometry.row_length, i >= geometry.row_length
    return (
        at(i - 1, column >= 1),
        at(i - 2, column >= 2),
        at(i - geometry.kernel, column >= geometry.kernel),
        at(up, above),
        at(up - 1, above and column >= 1),
        at(up + 1, above and column + 1 < geometry.row_length),
    )


class Scales:
    """Running means of magnitudes in 2^-4: along the row, and of each column."""

    def __init__(self, columns):
        self.row = 0
        self.columns = [0] * columns

    def contexts(self, column, near):
        left, left2, previous, up, _, _ = (abs(x) for x in near)
        return (
            level(self.row // 2 + 4 * left + 2 * left2),
            level(self.columns[column] // 2 + 4 * up + 4 * previous),
        )

    def update(self, column, value):
        now = 16 * abs(value)
        self.row += now // 16 - self.row // 16
        self.columns[column] += now // 8 - self.columns[column] // 8


def _side(value):
    return 0 if value == 0 else 1 if value > 0 else 2


def code_signed(coder, model, near, first, second, bits, value):
    if model.code(coder, "zero", first, second, "zero", value == 0):
        return 0
    sides, rows = 3 * _side(near[0]) + _side(near[2]), 3 * _side(near[3]) + _side(near[4])
    negative = model.code(coder, "sign", sides, rows, "sign", value < 0)
    width, actual = 1, abs(value).bit_length()
    while width < bits and model.code(coder, ("width", width), first, second, width, actual > width):
        width += 1
    prefix = 1
    for bit in reversed(range(width - 1)):
        node = ("top", width, prefix) if prefix < 8 else ("low", width, bit)
        prefix = 2 * prefix + model.code_alone(coder, node, abs(value) >> bit & 1)
    return -prefix if negative else prefix


def code_unsigned(coder, model, first, second, bits, index):
    prefix = 1
    for bit in reversed(range(bits)):
        prefix = 2 * prefix + model.code(coder, prefix, first, second, bit, index >> bit & 1)
    return prefix - (1 << bits)


def _run(coder, symbols, geometry, bits, signed, model):
    """Codes `symbols` in place; `model` learns."""
    middle = 1 << (bits - 1)
    near = []  # what the contexts see of the symbols so far
    scales = Scales(geometry.row_length)
    for i in range(len(symbols)):
        column = i % geometry.row_length
        around = neighbours(near, i, geometry)
        first, second = scales.contexts(column, around)
        if signed:
            symbols[i] = code_signed(coder, model, around, first, second, bits, symbols[i])
            near.append(symbols[i])
        else:
            symbols[i] = code_unsigned(coder, model, first, second, bits, symbols[i])
            distance = symbols[i] - middle
            near.append(distance + 1 if distance >= 0 else distance)
        scales.update(column, near[-1])


def encode(symbols, geometry, bits, signed, model):
    coder = Coder()
    _run(coder, list(symbols), geometry, bits, signed, model)
    return coder.finish()


def decode(blob, geometry, bits, signed, model):
    coder = Coder(blob)
    symbols = [0] * geometry.elements
    _run(coder, symbols, geometry, bits, signed, model)
    coder.finish()
    return symbols
