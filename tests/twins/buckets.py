"""rANS with tables by scale, one symbol at a time: the twin of csrc/coding/bucket_model.cpp, bucket_rans.cpp and
bucket_decode.cpp. The plan of bucket_plan.cpp has no twin: `encode` takes the model that a blob says."""

from __future__ import annotations

from itertools import pairwise

from tests.twins.bits import BitReader, BitWriter, Corrupt
from tests.twins.frequency_table import read_table, table_bits
from tests.twins.rans import LOW, lane_count


class Model:
    """first, scale_bits, by_column; rows, channels, positions: scales; table_of[context]; tables[t][index - first]."""

    def table(self, place):
        row, rest = divmod(place, len(self.channels) * len(self.positions))
        channel, position = divmod(rest, len(self.positions))
        return self.table_of[self.rows[row] + self.channels[channel] + self.positions[position]]


def zigzag(value, middle):
    return 2 * (value - middle) if value >= middle else 2 * (middle - value) - 1


def get_scales(reader, count):
    if reader.get(1):
        return [0] * count
    parameter, middle = reader.get(2), reader.get(5)
    scales = []
    for _ in range(count):
        unary = 0
        while reader.get(1) == 0:
            unary += 1
        distance = unary << parameter | reader.get(parameter)
        scales.append(middle + distance // 2 if distance % 2 == 0 else middle - (distance + 1) // 2)
        if not 0 <= scales[-1] <= 31:
            raise Corrupt("a scale out of range")
    return scales


def put_scales(out, scales):
    """As a Rice code of the fewest bits, the lowest parameter and middle among equals."""
    out.put(int(not any(scales)), 1)
    if not any(scales):
        return
    codes = []
    for parameter in range(4):
        for middle in range(32):
            unary = [zigzag(s, middle) >> parameter for s in scales]
            if max(unary) <= 24:
                codes.append((sum(unary) + len(scales) * (1 + parameter), parameter, middle))
    _, parameter, middle = min(codes)
    out.put(parameter, 2)
    out.put(middle, 5)
    for s in scales:
        distance = zigzag(s, middle)
        out.put(1 << (distance >> parameter), (distance >> parameter) + 1)
        out.put(distance & ((1 << parameter) - 1), parameter)


def read_model(blob, shape):
    """(model, payload)"""
    reader = BitReader(blob)
    rows, channels, kernel = shape
    model = Model()
    model.first = reader.get(16)
    model.scale_bits = 8 + reader.get(3)
    model.by_column = reader.get(1)
    count = reader.get(4) + 1
    model.rows = get_scales(reader, rows)
    model.channels = get_scales(reader, channels * kernel if model.by_column else channels)
    model.positions = [0] if model.by_column else get_scales(reader, kernel)
    contexts = max(model.rows) + max(model.channels) + max(model.positions) + 1
    model.table_of = []
    for t in range(count - 1):
        model.table_of += [t] * (reader.get_exp_golomb() + 1)
    model.table_of += [count - 1] * (contexts - len(model.table_of))
    model.tables = []
    for _ in range(count):
        _, first, scale_bits, f = read_table(reader, 8)
        if scale_bits == 0:
            f = [1 << model.scale_bits]
        model.tables.append([0] * first + f)
    reader.align()
    return model, blob[reader.position // 8 :]


def write_model(model):
    out = BitWriter()
    out.put(model.first, 16)
    out.put(model.scale_bits - 8, 3)
    out.put(model.by_column, 1)
    out.put(len(model.tables) - 1, 4)
    put_scales(out, model.rows)
    put_scales(out, model.channels)
    if not model.by_column:
        put_scales(out, model.positions)
    run = 0
    for one, two in pairwise(model.table_of):
        run += 1
        if two != one:
            out.put_exp_golomb(run - 1)
            run = 0
    for f in model.tables:
        first = next(i for i, x in enumerate(f) if x)
        f = f[first:]
        out.bits += table_bits(8, 0, first, *((0, [1]) if len(f) == 1 else (model.scale_bits, f))).bits
    return out.to_bytes()


def encode(indices, model):
    lanes = lane_count(len(indices))
    states, words = [LOW] * lanes, []
    for i in reversed(range(len(indices))):
        f = model.tables[model.table(i)]
        symbol = indices[i] - model.first
        x = states[i % lanes]
        if x >= f[symbol] << (31 - model.scale_bits):
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // f[symbol] << model.scale_bits) + x % f[symbol] + sum(f[:symbol])
    words.reverse()
    payload = b"".join(x.to_bytes(4, "little") for x in states) + b"".join(w.to_bytes(2, "little") for w in words)
    return write_model(model) + payload


def decode(blob, shape):
    model, rest = read_model(blob, shape)
    count = shape[0] * shape[1] * shape[2]
    slots = [[(s, f[s], place) for s in range(len(f)) for place in range(f[s])] for f in model.tables]
    lanes = lane_count(count)
    states = [int.from_bytes(rest[4 * i : 4 * i + 4], "little") for i in range(lanes)]
    words = [int.from_bytes(rest[i : i + 2], "little") for i in range(4 * lanes, len(rest), 2)]
    indices, read = [], 0
    for i in range(count):
        x = states[i % lanes]
        symbol, frequency, place = slots[model.table(i)][x % (1 << model.scale_bits)]
        x = frequency * (x >> model.scale_bits) + place
        if x < LOW:
            x = x << 16 | words[read]
            read += 1
        states[i % lanes] = x
        indices.append(model.first + symbol)
    if read != len(words) or states != [LOW] * lanes:
        raise Corrupt("the stream does not end where it should")
    return indices
