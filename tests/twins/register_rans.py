"""rANS for few symbols, a lane and a symbol at a time: the twin of csrc/coding/register_*.cpp.

A table is (symbols, frequencies, escape): indices and frequencies of the ids; with `escape` the last id stands
for all symbols without one.
"""

from __future__ import annotations

from collections import Counter

from tests.twins import rans
from tests.twins.bits import Corrupt
from tests.twins.frequency_table import log2_fixed, normalize

LOW = 256


def lane_count(count):
    return 32 if count < 1 << 15 else 64 if count < 1 << 18 else 128


def lowest_without_id(symbols):
    return next(i for i in range(257) if i not in symbols)


def slots_of(frequencies):
    """For each id its slots, in the order of their ranks (alias method)."""
    buckets = 16 if len(frequencies) <= 16 else 32
    width = 256 // buckets
    left = frequencies + [0] * (buckets - len(frequencies))
    small = [i for i in range(buckets) if left[i] < width]
    large = [i for i in range(buckets) if left[i] > width]
    own = [width] * buckets
    alias = list(range(buckets))
    while small:
        bucket, giver = small.pop(), large.pop()
        own[bucket], alias[bucket] = left[bucket], giver
        left[giver] -= width - left[bucket]
        if left[giver] < width:
            small.append(giver)
        elif left[giver] > width:
            large.append(giver)
    slots = [[b * width + place for place in range(own[b])] for b in range(buckets)]
    for b in range(buckets):
        slots[alias[b]] += [b * width + place for place in range(own[b], width)]
    return slots[: len(frequencies)]


def entropy_fixed(counts):
    total = sum(counts)
    return sum(c * (log2_fixed(total) - log2_fixed(c)) for c in counts)


def table_of(counts, proper, escaped):
    symbols = sorted(proper)
    of_id = [counts[s] for s in symbols]
    if escaped:
        symbols.append(lowest_without_id(symbols))
        of_id.append(escaped)
    f = normalize(of_id, 8)
    cost = (16 * len(f) + 12 * lane_count(sum(of_id)) << 16) + sum(of_id) * (
        655 * (65536 - sum(x * x for x in f)) ** 2 >> 32
    )
    cost += sum(c * ((8 << 16) - log2_fixed(x)) for c, x in zip(of_id, f, strict=True))
    return (symbols, f, escaped > 0), cost


def plan(indices, bits):
    """The table that costs least; tables with fewer ids are tried until that stops to pay."""
    counts = Counter(indices)
    if len(counts) == 1:
        (symbol,) = counts
        other = 1 if symbol == 0 else 0
        return sorted((symbol, other)), [255, 1] if symbol < other else [1, 255], False
    ranked = sorted(counts, key=lambda s: (-counts[s], s))
    start = 31 if len(ranked) > 32 else len(ranked)
    best = None
    for proper in range(start, 0, -1):
        rare = ranked[proper:]
        escaped = sum(counts[s] for s in rare)
        if not 1 < proper + (escaped > 0) <= 32:
            continue
        table, cost = table_of(counts, ranked[:proper], escaped)
        if escaped:
            cost += entropy_fixed([counts[s] for s in rare]) + (escaped << 18) + (12 + bits * len(rare) // 8 << 19)
        if best is not None and cost >= best[0] and proper + 1 < start:
            break
        if best is None or cost < best[0]:
            best = cost, table
    return best[1]


def encode(indices, bits):
    symbols, f, escape = plan(indices, bits)
    proper = symbols[: len(symbols) - escape]
    head = bytes([len(f) - 1 + 32 * escape, *proper, *f[:-1]])
    id_of = {s: i for i, s in enumerate(proper)}
    if escape:
        rare = [i for i in indices if i not in id_of]
        stream = rans.encode(rare, bits)
        head += len(rare).to_bytes(4, "little") + len(stream).to_bytes(4, "little") + stream
    slots = slots_of(f)
    lanes = lane_count(len(indices))
    states = [LOW] * lanes
    out = []
    for i in reversed(range(len(indices))):
        coded = id_of.get(indices[i], len(proper))
        x = states[i % lanes]
        if x >= f[coded] * 256:
            out.append(x & 255)
            x >>= 8
        states[i % lanes] = x // f[coded] * 256 + slots[coded][x % f[coded]]
    return head + bytes(x & 255 for x in states) + bytes(x >> 8 for x in states) + bytes(reversed(out))


def decode(blob, count, bits):
    ids, escape = blob[0] % 32 + 1, blob[0] >= 32
    proper = list(blob[1 : 1 + ids - escape])
    f = list(blob[1 + len(proper) : len(proper) + ids])
    f.append(256 - sum(f))
    at = len(proper) + ids
    rare = []
    if escape:
        number, size = (int.from_bytes(blob[i : i + 4], "little") for i in (at, at + 4))
        rare = rans.decode(blob[at + 8 : at + 8 + size], number, bits)
        at += 8 + size
    lanes = lane_count(count)
    meaning = {slot: (coded, rank) for coded, s in enumerate(slots_of(f)) for rank, slot in enumerate(s)}
    states = [
        low + 256 * high for low, high in zip(blob[at : at + lanes], blob[at + lanes : at + 2 * lanes], strict=True)
    ]
    data = iter(blob[at + 2 * lanes :])
    escapes = iter(rare)
    indices = []
    for i in range(count):
        x = states[i % lanes]
        coded, rank = meaning[x % 256]
        x = f[coded] * (x // 256) + rank
        states[i % lanes] = x if x >= LOW else x * 256 + next(data)
        indices.append(proper[coded] if coded < len(proper) else next(escapes))
    if list(data) or list(escapes) or states != [LOW] * lanes:
        raise Corrupt("the stream does not end where it should")
    return indices
