"""Context-mixing coding of weights: the twin of csrc/coding/{adaptive,tensor_head,weight_contexts,weight_model}."""

from __future__ import annotations

from collections import namedtuple
from math import isqrt, sqrt

from tests.twins.bits import Corrupt
from tests.twins.mixing import Coder, Counter, clamp, code_alone, code_mixed, mixer_weights
from tests.twins.predictors import ONE, ColumnLeanings, Scales, Values, fixed_log2
from tests.twins.trellis_path import NEXT, Q1

Place = namedtuple("Place", "row column channel position tap kind")


def laplace_counters(states=1):
    """Counters of (node, state, scale step) that sizes start from."""
    counters = {}

    def start(key, p):
        counters[key] = Counter(int(clamp(p, 0.0005, 0.9995) * 65536.0), 20)

    s = 0.01631703791171288
    for step in range(128):
        u = 2.0 * s / (1.0 + sqrt(1.0 + 4.0 * s * s))
        power, half, tail, before = u, 1.0, u, 1.0
        for n in range(16):
            for state in range(states):
                lower, upper, up = before, tail, power
                if Q1[states][state]:
                    lower = before / u if n > 1 else (1.0, sqrt(u))[n]
                    upper = tail / u if n > 0 else sqrt(u)
                    up = power if n > 1 else upper / lower
                start(("up", n, "step", state, step), upper if n + 1 == likely_width(step) else up)
                start(("down", n, "step", state, step), (lower - upper) / (1.0 - upper))
            for prefix, odds in ((1, power), (2, half), (3, half)):
                start(("upper", n, prefix, step), odds / (1.0 + odds))
            half, power, before = power, power * power, tail
            tail *= power
        s *= 1.0905077326652577
    return counters


def likely_width(step):
    return max(1, step // 8 - 5)


class Model:
    """Counters and weights, made when first asked for."""

    def __init__(self, states=1):
        self.states = states
        self.counters = laplace_counters(states)
        self.mixers = {}
        self.scales = {}
        self.values = {}

    def counter(self, *key, start=None):
        return self.counters.setdefault(key, Counter(start))

    def weights(self, count, *key):
        return self.mixers.setdefault(key, mixer_weights(count))


def level(total):
    if total < 4:
        return total
    top = total.bit_length() - 1
    return min(2 * top + (total >> (top - 1) & 1), 15)


def signed_level(log):
    return clamp((log >> 10) + 8, 0, 15)


def sign(value):
    return (value > 0) - (value < 0)


class Walk:
    """Codes the values of one tensor, in [least, most], where `kept`."""

    def __init__(self, coder, model, geometry, least, most, spiked):
        self.coder, self.model, self.geometry = coder, model, geometry
        self.least, self.most, self.spiked = least, most, spiked
        self.values, self.sizes = [], []
        width = isqrt(geometry.kernel)
        self.width = width if width > 1 and width * width == geometry.kernel and width <= 16 else 0
        self.states = model.states
        self.state = 0
        self.scales = Scales(model.scales, geometry, self.width, 11 if self.states > 1 else 12)
        self.predictor = Values(model.values)
        self.leanings = ColumnLeanings()

    def place(self):
        row, column = divmod(len(self.values), self.geometry.row_length)
        channel, position = divmod(column, self.geometry.kernel)
        kernel = self.geometry.kernel
        kind = 0 if kernel == 1 else 1 if self.geometry.columns == 1 else 2 if kernel <= 9 else 3
        return Place(row, column, channel, position, min(position, 24), kind)

    def skip(self, kept):
        if kept:
            self.advance(0)
        self.values.append(0)
        self.sizes.append(0)

    def advance(self, index):
        self.state = int(NEXT[self.states][self.state, index & 1])

    def number(self, index):
        """What is remembered and predicted of an index: its code."""
        return index if self.states == 1 else 2 * index - (sign(index) if Q1[self.states][self.state] else 0)

    def around(self, items, place):
        """What lies around the next of `items`, 0 where the matrix ends."""
        i, length, kernel = len(items), self.geometry.row_length, self.geometry.kernel

        def at(back, there):
            return items[i - back] if there else 0

        return {
            "left": at(1, place.column >= 1),
            "left2": at(2, place.column >= 2),
            "up": at(length, place.row >= 1),
            "up2": at(2 * length, place.row >= 2),
            "up_left": at(length + 1, place.row >= 1 and place.column >= 1),
            "up_right": at(length - 1, place.row >= 1 and place.column + 1 < length),
            "previous": at(kernel, kernel > 1 and place.channel >= 1),
            "above": at(self.width, 0 < self.width <= place.position),
            "kernel": sum(items[i - place.position : i]),
        }

    def code(self, value):
        place, kernel = self.place(), self.geometry.kernel
        predicted = self.predictor.predict(place, self.values[: -place.tap - 1 : -1]) if kernel > 1 else 0
        near = self.around(self.sizes, place)
        log, mean = self.scales.predict(place, near)
        predicted >>= self.states > 1
        centre = 0 if self.spiked else clamp(predicted + 128 >> 8, self.least, self.most)
        residual = self.residual(place, near, log, predicted - 256 * centre, centre, value - centre)
        value = residual + centre
        number = self.number(value)
        magnitude = abs(number - self.number(centre))
        self.scales.learn(mean, magnitude)
        if kernel > 1:
            self.predictor.learn(number, mean << (self.states > 1))
        else:
            self.leanings.learn(place.column, number)
        self.values.append(number)
        self.sizes.append(magnitude)
        self.advance(value)
        if not self.least <= value <= self.most:
            raise Corrupt("a value out of range")
        return value

    def residual(self, place, near, log, fraction, centre, residual):
        least, most = self.least - centre, self.most - centre
        if max(most, -least) == 0:
            return 0
        size = self.size(place, near, log, fraction, max(most, -least), abs(residual))
        if size == 0:
            return 0
        if size > most or size > -least:
            return size if size <= most else -size
        return -size if self.negative(place, log, fraction, size, residual < 0) else size

    def size(self, place, near, log, fraction, most, size):
        model, step = self.model, clamp(log + 6 * ONE >> 9, 0, 127)
        around = sum(near[key] for key in ("left", "left2", "up", "previous", "up_left", "up_right"))
        factors = signed_level(self.scales.row.log), signed_level(self.scales.columns[place.column].log)
        if place.kind == 0:
            lean = 12 + level(near["left"] + near["left2"])
            close = "cross", min(level(near["left"]), 7), min(level(near["up"]), 7)
        else:
            ratio = fixed_log2(abs(fraction) + 1) - 8 * ONE - log
            lean = clamp(ratio + 3 * ONE >> 11, 0, 11) if fraction else 0
            close = "kernel", place.kind, level(near["kernel"])
        grid = bool(Q1[self.states][self.state])
        contexts = (
            ("step", self.state, step),
            ("lean", self.state, lean, step >> 2),
            ("around", self.state, level(around), place.tap),
            ("factors", grid, factors, step >> 4),
            (*close, grid, step >> 3),
        )

        def mixed(way, width, decision):
            counters = [model.counter(way, width, *context) for context in contexts]
            return code_mixed(self.coder, counters, model.weights(5, way, width, place.kind), decision)

        width, actual, last = likely_width(step), size.bit_length(), most.bit_length()
        width = min(width, last)
        if mixed("up", width - 1, actual >= width):
            while width < last and mixed("up", width, actual > width):
                width += 1
        else:
            width -= 1
            while width > 0 and not mixed("down", width, actual == width):
                width -= 1
        if width == 0:
            return 0
        top = width - 1
        prefix = 1
        for bit in reversed(range(top)):
            middle = 2 * prefix + 1 << bit
            if prefix < 4:
                counter = model.counter("upper", top, prefix, step)
            elif middle < 256:
                counter = model.counter("lower", middle, start=2**15)
            else:
                counter = model.counter("lower", top, bit, start=2**15)
            if counter.seen == 0:
                counter.seen = 20
            prefix = 2 * prefix + code_alone(self.coder, counter, size >> bit & 1)
        return prefix

    def negative(self, place, log, fraction, size, decision):
        model = self.model
        ratio = fixed_log2(abs(fraction) + 1) - 8 * ONE - log
        lean = 1 + clamp(ratio + 4 * ONE >> 10, 0, 22) if fraction else 0
        relative = clamp(fixed_log2(size) - log + 2 * ONE >> 11, 0, 7)
        near = self.around(self.values, place)
        signs = tuple(sign(near[key]) for key in ("left", "up", "previous", "above"))
        counters = [
            model.counter("sign", lean, fraction < 0, relative, start=2**15),
            model.counter("signs", signs, place.kind),
            model.counter("sign of size", min(size, 255)),
        ]
        if place.kind == 0:
            column = self.leanings.level(place.column)
            counters.append(model.counter("sign in column", column, min(size.bit_length(), 4)))
        else:
            counters.append(model.counter("sign at", place.tap, lean, fraction < 0))
        return code_mixed(self.coder, counters, model.weights(4, "sign", place.kind), decision)


def code_number(coder, model, bits, number):
    prefix = 1
    for bit in reversed(range(bits)):
        prefix = 2 * prefix + code_alone(coder, model.counter("head", prefix, start=2**15), number >> bit & 1)
    return prefix - (1 << bits)


def code_liveness(coder, model, name, dead, count):
    """`dead`: flags, or None if they are not told."""
    if not code_alone(coder, model.counter("told", name, start=2**15), dead is not None):
        return [0] * count
    coded = []
    for i in range(count):
        counter = model.counter("dead", coded[-1] if coded else False, start=2**15)
        coded.append(code_alone(coder, counter, dead[i] if dead else 0))
    return coded


def describe(values, geometry, kept, states=1):
    """(spiked, dead rows, dead channels): flags, or None where they cost more than the zeros that they save."""
    there = [(*divmod(i, geometry.row_length), value) for i, value in enumerate(values) if kept[i]]
    there = [(row, column // geometry.kernel, value) for row, column, value in there]
    dead_rows = set(range(geometry.rows)) - {row for row, _, value in there if value}
    dead_channels = set(range(geometry.columns)) - {channel for _, channel, value in there if value}
    outside = [value for row, channel, value in there if row not in dead_rows and channel not in dead_channels]
    zero_cost = fixed_log2(len(outside) + 1) - fixed_log2(outside.count(0) + 1)

    def told(dead, count, saved):
        return [i in dead for i in range(count)] if saved * zero_cost >= count * 5 * 1024 else None

    rows = told(dead_rows, geometry.rows, sum(row in dead_rows for row, _, _ in there))
    channels = told(dead_channels, geometry.columns, sum(channel in dead_channels for _, channel, _ in there))
    alone = [value for _, _, value in there]
    zeros = alone.count(0) + len(values) - len(alone)  # what is not kept counts as 0
    ones = alone.count(1) + alone.count(-1)
    return 2 * (zeros + ones) > len(values) if states > 1 else zeros > 3 * ones, rows, channels


def _run(coder, symbols, geometry, bits, signed, model, kept):
    """Codes `symbols` in place where `kept`; when decoding, they are None. `model` learns."""
    encoding = coder.data is None
    centre, spiked, rows, channels = 0, False, (), ()
    if not signed:
        alone = [symbol for symbol, there in zip(symbols, kept, strict=True) if there]
        centre = max(range(1 << bits), key=alone.count) if encoding else 0
        centre = code_number(coder, model, bits, centre)
    if encoding:
        spiked, rows, channels = describe([symbol - centre for symbol in symbols], geometry, kept, model.states)
    spiked = code_alone(coder, model.counter("spiked", start=2**15), spiked)
    rows = code_liveness(coder, model, "rows", rows, geometry.rows)
    channels = code_liveness(coder, model, "channels", channels, geometry.columns)
    least = -(1 << bits - 1) if signed else -centre
    walk = Walk(coder, model, geometry, least, least + (1 << bits) - 1, spiked)
    for i in range(len(symbols)):
        place = walk.place()
        if place.column == 0:
            walk.state = 0
        if not kept[i]:
            walk.skip(kept=False)
        elif rows[place.row] or channels[place.channel]:
            walk.skip(kept=True)
            symbols[i] = centre
        else:
            symbols[i] = walk.code(symbols[i] - centre if encoding else 0) + centre


def encode(symbols, geometry, bits, signed, model, kept=None):
    coder = Coder()
    _run(coder, list(symbols), geometry, bits, signed, model, kept or [1] * geometry.elements)
    return coder.finish()


def decode(blob, geometry, bits, signed, model, kept=None):
    """The symbols, None where they are not kept."""
    coder = Coder(blob)
    symbols = [None] * geometry.elements
    _run(coder, symbols, geometry, bits, signed, model, kept or [1] * geometry.elements)
    coder.finish()
    return symbols
