"""The text model and its coder, slow and obvious: the same bytes as csrc/text_*.cpp (texts below 1 MiB)."""

from __future__ import annotations

import math

from tersor._native import core

CONTEXTS, GUESSES = 7, 3
INPUTS = CONTEXTS + GUESSES
LOGIT_LIMIT = 2047
M32 = 0xFFFFFFFF


def mix(value: int, item: int) -> int:
    value = ((value ^ (item + 1)) * 0x9E3779B1) & M32
    return value ^ (value >> 15)


def truncated(numerator: int, denominator: int) -> int:
    quotient = abs(numerator) // denominator
    return quotient if numerator >= 0 else -quotient


LOGISTIC = [round(65536 / (1 + math.exp(-(i - 16) / 2))) for i in range(33)]


def squash(logit: int) -> int:
    x = max(-LOGIT_LIMIT, min(LOGIT_LIMIT, logit)) + 2048
    at, part = divmod(x, 128)
    return (LOGISTIC[at] * (128 - part) + LOGISTIC[at + 1] * part) // 128


def stretch_table() -> list[int]:
    logits = range(-LOGIT_LIMIT, LOGIT_LIMIT)
    return [next((x for x in logits if squash(x) >= p * 16 + 8), LOGIT_LIMIT) for p in range(4096)]


STRETCH = stretch_table()


class Counter:
    def __init__(self, check: int) -> None:
        self.probability, self.check, self.seen = 0, check, 0

    def update(self, bit: int) -> None:
        error = (32767 if bit else -32768) - self.probability
        self.probability += truncated(error * (65536 * 2 // (2 * self.seen + 3) // 2), 32768)
        self.seen = min(self.seen + 1, 127)

    def confidence(self) -> int:
        return sum(self.seen >= limit for limit in (1, 2, 3, 4, 8, 16, 48))


class History:
    """Contexts and guesses of the next byte."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.recent: dict[int, int] = {}
        self.match_at = self.match_bytes = 0
        self.skeleton = self.above = 0
        self.numbers = [(0, 1, False)] * 8  # value, step, present
        self.numbers_above = list(self.numbers)
        self.field = self.digits = self.value = 0

    def append(self, byte: int) -> None:
        self.bytes.append(byte)
        self.follow_match(byte)
        self.follow_name(byte)

    def follow_match(self, byte: int) -> None:
        if self.match_bytes > 0 and self.bytes[self.match_at] == byte:
            self.match_at += 1
            self.match_bytes = min(self.match_bytes + 1, 31)
        else:
            self.match_bytes = 0
        if len(self.bytes) < 5:
            return
        slot = 0
        for item in self.bytes[: -5 - 1 : -1]:
            slot = mix(slot, item)
        slot %= 1 << 16
        if self.match_bytes == 0 and slot in self.recent:
            self.match_at = at = self.recent[slot]
            end = len(self.bytes)
            length = 0
            while length < min(31, at) and self.bytes[end - 1 - length] == self.bytes[at - 1 - length]:
                length += 1
            self.match_bytes = length
        self.recent[slot] = len(self.bytes)

    def follow_name(self, byte: int) -> None:
        if ord("0") <= byte <= ord("9"):
            if self.digits == 0:
                self.skeleton = mix(self.skeleton, ord("0"))
            self.digits += 1
            self.value = 999_999 if self.value > 99_999 else self.value * 10 + byte - ord("0")
        else:
            if self.digits > 0 and self.field < 8:
                above, step, present = self.numbers_above[self.field]
                if present and self.value > above:
                    step = self.value - above
                self.numbers[self.field] = (self.value, step, True)
                self.field += 1
            self.digits = self.value = 0
            self.skeleton = mix(self.skeleton, byte)
        if byte == 0:
            self.above, self.skeleton = self.skeleton, 0
            for i in range(self.field, 8):
                self.numbers[i] = (*self.numbers[i][:2], False)
            self.numbers_above = list(self.numbers)
            self.field = 0

    def contexts(self) -> list[int]:
        last = bytes(4) + bytes(self.bytes[-4:])
        orders = [0]
        for i in range(1, 5):
            orders.append(mix(orders[-1], last[-i]))
        name = [mix(self.skeleton, self.digits), mix(mix(self.skeleton, self.above), self.digits)]
        return [0, orders[1], orders[2], orders[4], last[-2], *name]

    def guesses(self) -> list[tuple[int, int]]:
        """(expected byte or -1, context of the trust in it)."""
        match = (self.bytes[self.match_at] if self.match_bytes > 0 else -1, self.match_bytes)
        if self.field >= 8 or not self.numbers_above[self.field][2]:
            return [match, (-1, 0), (-1, 0)]
        place = mix(mix(self.skeleton, self.above), self.digits)
        value, step, _ = self.numbers_above[self.field]
        return [match, (self.next_digit(value), place), (self.next_digit(value + step), place)]

    def next_digit(self, number: int) -> int:
        text = str(number)
        if self.digits >= len(text) or (self.digits > 0 and int(text[: self.digits]) != self.value):
            return -1
        return ord(text[self.digits])


class Model:
    def __init__(self) -> None:
        self.history = History()
        self.counters: dict[tuple[int, int], Counter] = {}
        self.weights = [[26214] * 8 for _ in range(INPUTS)]
        self.rate, self.bytes = 0, 0
        self.bits: list[int] = []
        self.predict()
        for byte in core.text_dictionary:
            for i in range(7, -1, -1):
                self.update(byte >> i & 1)

    def predict(self) -> None:
        if not self.bits:
            self.byte_contexts, self.byte_guesses = self.history.contexts(), self.history.guesses()
        partial = int("1" + "".join(map(str, self.bits)), 2)
        keys = [c + partial * 0x2C1B3C6D for c in self.byte_contexts]
        keys += [c + len(self.bits) * 0x2C1B3C6D for _, c in self.byte_guesses]
        self.active, self.inputs, self.signs = [], [], [1] * CONTEXTS
        for byte, _ in self.byte_guesses:
            expected = [byte >> i & 1 for i in range(7, -1, -1)]
            stands = byte >= 0 and expected[: len(self.bits)] == self.bits
            self.signs.append((1 if expected[len(self.bits)] else -1) if stands else 0)
        total = 0
        for i, key in enumerate(keys):
            value = key * 0x9E3779B1 & M32
            slot, check = (i, value >> 16), value >> 4 & 0xFF
            # A taken-over counter is only stored when it is updated.
            found = self.counters.get(slot)
            counter = found if found is not None and found.check == check else Counter(check)
            logit = STRETCH[(counter.probability + 32768) >> 4] if counter.seen else 0
            self.active.append((slot, counter, counter.confidence()))
            self.inputs.append(logit * self.signs[i])
            total += self.inputs[-1] * self.weights[i][counter.confidence()]
        self.probability = squash(total >> 16)

    def update(self, bit: int) -> None:
        error = bit * 65536 - self.probability
        for i, (slot, counter, confidence) in enumerate(self.active):
            change = (self.inputs[i] * error * self.rate + (1 << 17)) >> 18
            weight = self.weights[i][confidence] + change
            self.weights[i][confidence] = max(-64 * 65536, min(64 * 65536, weight))
            if self.signs[i] != 0:
                counter.update(bit if self.signs[i] > 0 else 1 - bit)
                self.counters[slot] = counter
        self.bits.append(bit)
        if len(self.bits) == 8:
            self.history.append(int("".join(map(str, self.bits)), 2))
            self.bits = []
            self.bytes = min(self.bytes + 1, 1 << 20)
            self.rate = 8 + 88 * 1024 // (1024 + self.bytes)
        self.predict()


def compress(text: bytes) -> bytes:
    """Arithmetic coding with an interval of 32 bits, both ends included."""
    model, low, high, blob = Model(), 0, M32, bytearray()
    for byte in text:
        for i in range(7, -1, -1):
            bit = byte >> i & 1
            middle = low + ((high - low) * model.probability >> 16)
            low, high = (low, middle) if bit else (middle + 1, high)
            model.update(bit)
            while low >> 24 == high >> 24:
                blob.append(low >> 24)
                low, high = low << 8 & M32, (high << 8 & M32) | 255
    for shift in (32, 24, 16, 8, 0):
        value = -(-low >> shift) << shift
        if value <= high:
            return bytes(blob + value.to_bytes(4, "big")).rstrip(b"\0")
    raise AssertionError("low <= high")
