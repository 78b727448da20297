"""Interleaved rANS, one symbol at a time with big-integer arithmetic: the twin of csrc/coding/rans.cpp."""

from __future__ import annotations

from tests.twins.bits import BitReader, BitWriter, Corrupt
from tests.twins.frequency_table import choose_table, count_alphabet, read_table, table_bits

LOW = 1 << 15


def lane_count(count):
    return 1 if count < 4096 else 4 if count < 65536 else 32


def encode(indices, bits):
    split, first, counts = count_alphabet(indices, bits)
    scale, f = choose_table(counts, lambda scale, f: table_bits(bits, split, first, scale, f))
    starts = [sum(f[:i]) for i in range(len(f))]
    head = table_bits(bits, split, first, scale, f).to_bytes()
    low = BitWriter()
    for index in indices:
        low.put(index & ((1 << split) - 1), split)
    head += low.to_bytes()
    if scale == 0:
        return head
    lanes = lane_count(len(indices))
    states = [LOW] * lanes
    words = []
    for i in reversed(range(len(indices))):
        symbol = (indices[i] >> split) - first
        x = states[i % lanes]
        if x >= f[symbol] << (31 - scale):
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // f[symbol] << scale) + x % f[symbol] + starts[symbol]
    words.reverse()
    return head + b"".join(x.to_bytes(4, "little") for x in states) + b"".join(w.to_bytes(2, "little") for w in words)


def decode(blob, count, bits):
    reader = BitReader(blob)
    split, first, scale, f = read_table(reader, bits)
    reader.align()
    low = [reader.get(split) for _ in range(count)]
    reader.align()
    rest = blob[reader.position // 8 :]
    if scale == 0:
        return [(first << split) + x for x in low]
    lanes = lane_count(count)
    states = [int.from_bytes(rest[4 * i : 4 * i + 4], "little") for i in range(lanes)]
    words = [int.from_bytes(rest[i : i + 2], "little") for i in range(4 * lanes, len(rest), 2)]
    slots = [(s, f[s], place) for s in range(len(f)) for place in range(f[s])]
    indices = []
    read = 0
    for i in range(count):
        x = states[i % lanes]
        symbol, frequency, place = slots[x % (1 << scale)]
        x = frequency * (x >> scale) + place
        if x < LOW:
            x = x << 16 | words[read]
            read += 1
        states[i % lanes] = x
        indices.append((first + symbol << split) + low[i])
    if read != len(words) or states != [LOW] * lanes:
        raise Corrupt("the stream does not end where it should")
    return indices
