"""Scale and value of the next weight: the twin of csrc/coding/{fixed_log,scale_predictor,value_predictor}."""

from __future__ import annotations

from math import floor, log2

from tests.twins.mixing import clamp

ONE = 4096
LOG2 = [floor(4096 * log2(1 + i / 1024)) for i in range(1024)]
EXP2 = [round(65536 * 2 ** (i / 256)) for i in range(256)]


def fixed_log2(x):
    top = x.bit_length() - 1
    mantissa = x >> (top - 10) if top >= 10 else x << (10 - top)
    return top * ONE + LOG2[mantissa & 1023]


def fixed_exp2(log, point):
    shift = (log >> 12) + point - 16
    mantissa = EXP2[log >> 4 & 255]
    return mantissa << shift if shift >= 0 else mantissa >> -shift


def rounded_shift(value, shift):
    return value + (1 << shift - 1) >> shift


class Factor:
    def __init__(self, prior, log=0):
        self.prior, self.log, self.information = prior, log, 0

    def learn(self, score, information):
        inverse = 2**22 // ((self.information >> 6) + 4 * self.prior + 1)
        self.log = clamp(self.log + rounded_shift(score * inverse, 20), -15 * ONE, 15 * ONE)
        self.information = min(self.information + information, 400 * 256)


class Scales:
    """The scale predictor of one tensor; `learned` (a dict) is handed on."""

    START = (65536, 65536, 32768, 32768, 4096, 4096, 4096, 4096, 0)

    def __init__(self, learned, geometry, width, point=12):
        self.learned, self.geometry, self.width, self.point = learned, geometry, width, point
        self.tensor = Factor(1, learned.get("tensor", 0))
        self.columns = [Factor(8) for _ in range(geometry.row_length)]
        self.channels = [Factor(8) for _ in range(geometry.columns)]
        self.positions = [Factor(10) for _ in range(geometry.kernel)]
        self.row, self.row_number = None, None

    def predict(self, place, near):
        """(L, s) where `near` holds the magnitudes around; leaves its inputs for `learn`."""
        dense = self.geometry.kernel == 1
        self.weights = self.learned.setdefault((place.kind, place.tap), list(self.START))
        if self.row_number != place.row:
            self.row, self.row_number = Factor(6), place.row
        factors = [self.row, self.columns[place.column]]
        if not dense:
            factors += [self.channels[place.channel], self.positions[place.position]]
        self.used = [self.tensor, *factors]
        inputs = [factor.log for factor in factors] + [0] * (4 - len(factors))
        far = self.tensor.log + rounded_shift(sum(w * x for w, x in zip(self.weights, inputs, strict=False)), 16)
        far = clamp(far, -8 * ONE, 15 * ONE)
        expected = fixed_exp2(far, 12)

        def evidence(there, seen, count):
            if not there:
                return 0
            return (
                fixed_log2(8 * expected + 4 * (seen << self.point)) - fixed_log2(expected) - fixed_log2(8 + 4 * count)
            )

        inputs.append(evidence(place.column > 1, 2 * near["left"] + near["left2"], 3))
        inputs.append(evidence(place.row > 1, 2 * near["up"] + near["up2"], 3))
        if not dense:
            inputs.append(evidence(place.channel > 0, near["previous"], 1))
            inputs.append(evidence(place.position > 0, near["kernel"], place.position))
            inputs.append(evidence(0 < self.width <= place.position, near["above"], 1))
        total = sum(w * x for w, x in zip(self.weights[4:], inputs[4:], strict=False))
        log = clamp(far + rounded_shift(total, 16), -8 * ONE, 15 * ONE)
        self.inputs = inputs
        return log, max(fixed_exp2(log, 12), 8)

    def learn(self, mean, magnitude):
        inverse = fixed_exp2(-fixed_log2(4096 + mean), 36)
        score = clamp(((magnitude << self.point) - mean) * inverse >> 24, -5 * 2**11, 5 * 2**11)
        for i, x in enumerate(self.inputs):
            self.weights[i] = clamp(self.weights[i] + rounded_shift(score * x, 15), -(2**16), 2**18)
        for factor in self.used:
            factor.learn(score * 1477 >> 10, 256 - (inverse >> 16))
        self.learned["tensor"] = self.tensor.log


class Values:
    """The value predictor; `learned` (a dict) is handed on."""

    def __init__(self, learned):
        self.learned = learned

    def predict(self, place, before):
        """Prediction in 2^-8; `before`: the values of this kernel so far, the latest first."""
        self.weights = self.learned.setdefault((place.kind, place.tap), [0] * place.tap)
        self.before = before[: place.tap]
        total = sum(w * x for w, x in zip(self.weights, self.before, strict=True))
        self.prediction = clamp(rounded_shift(total, 8), -(2**23), 2**23)
        return self.prediction

    def learn(self, value, mean):
        power = 16 + len(self.before) * (mean * mean >> 24) + sum(x * x for x in self.before)
        log = fixed_log2(power)
        inverse, shift = fixed_exp2(-(log & 4095), 16), (log >> 12) + 16
        scaled = rounded_shift(9 * ((value << 8) - self.prediction) * inverse, 8)
        for i, x in enumerate(self.before):
            self.weights[i] = clamp(self.weights[i] + rounded_shift(scaled * x, shift - 8), -(2**19), 2**19)


class ColumnLeanings:
    """The mean sign of each column of a dense tensor, in 2^-12."""

    def __init__(self):
        self.columns = {}

    def level(self, column):
        mean, seen = self.columns.get(column, (0, 0))
        return (mean * 7 + (7 << 12) + 2048 >> 12), (0 if seen < 4 else 1 if seen < 20 else 2)

    def learn(self, column, value):
        if value:
            mean, seen = self.columns.get(column, (0, 0))
            mean += ((4096 if value > 0 else -4096) - mean) * (2**17 // (2 * seen + 3)) >> 16
            self.columns[column] = mean, min(seen + 1, 100)
