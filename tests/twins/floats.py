"""Floats one word at a time with big integers: the twin of csrc/coding/float_codec.cpp. The plan of float_plan.cpp has
no twin: `encode` takes the head and the symbols' coder that a blob says."""

from __future__ import annotations

from itertools import groupby

from tests.twins import buckets, huffman, rans, register_rans
from tests.twins.bits import BitReader, BitWriter, Corrupt

ESCAPE, ZERO_TOP, FIRST_TOP, WINDOW = 0, 1, 2, 254


class Head:
    """top_bits, first_top, zeros[class], class_of[row]"""


def read_head(blob, rows):
    """(head, rest)"""
    reader = BitReader(blob)
    head = Head()
    head.top_bits = reader.get(4)
    class_bits = reader.get(4)
    head.first_top = reader.get(16) if head.top_bits > 8 else 0
    head.zeros = [reader.get(8) for _ in range(1 << class_bits)]
    head.class_of = [reader.get(class_bits) for _ in range(rows)]
    reader.align()
    return head, blob[reader.position // 8 :]


def write_head(head):
    out = BitWriter()
    class_bits = len(head.zeros).bit_length() - 1
    out.put(head.top_bits, 4)
    out.put(class_bits, 4)
    if head.top_bits > 8:
        out.put(head.first_top, 16)
    for zeros in head.zeros:
        out.put(zeros, 8)
    for c in head.class_of:
        out.put(c, class_bits)
    return out.to_bytes()


def runs(head, length):
    """(class, first word, last word + 1) in the order of their fields."""
    found, row = [], 0
    for c, group in groupby(head.class_of):
        end = row + len(list(group))
        found.append((c, row * length, end * length))
        row = end
    return sorted(found)


def symbol_of(top, head):
    if head.top_bits <= 8:
        return top
    if top == 0:
        return ZERO_TOP
    place = top - head.first_top
    return place + FIRST_TOP if 0 <= place < WINDOW else ESCAPE


def encode_symbols(symbols, like, shape):
    """By the coder of `like`, (method, blob), whose model is taken where its plan has no twin."""
    method, blob = like
    if method == 11:
        return buckets.encode(symbols, buckets.read_model(blob, shape)[0])
    return {0: bytes, 1: lambda s: rans.encode(s, 8), 2: lambda s: huffman.encode(s, 8)}[method](symbols)


def decode_symbols(method, blob, count, shape):
    if method == 11:
        return buckets.decode(blob, shape)
    if method == 0:
        return list(blob)
    coder = {1: rans, 2: huffman, 10: register_rans}[method]
    return coder.decode(blob, count, 8)


def take(blob, size):
    if size > len(blob):
        raise Corrupt("the blob ends too early")
    return blob[:size], blob[size:]


def take_size(blob):
    head, blob = take(blob, 4)
    return int.from_bytes(head, "little"), blob


def symbol_blob(blob, rows):
    """(method, the symbols' blob) inside of a blob."""
    _, blob = read_head(blob, rows)
    size, rest = take_size(blob[1:])
    return blob[0], rest[:size]


def encode(words, bits, shape, head, like):
    """Words of `bits` bits with the head and the symbols' coder of a blob, (method, blob); "register" as it is."""
    _, channels, kernel = shape
    tops = [(word & ((1 << (bits - 1)) - 1)) >> (bits - 1 - head.top_bits) for word in words]
    symbols = [symbol_of(top, head) for top in tops]
    coded = like[1] if like[0] == 10 else encode_symbols(symbols, like, shape)
    blob = write_head(head) + bytes([like[0]]) + len(coded).to_bytes(4, "little") + coded
    if head.top_bits > 8:
        escapes = [top for top, symbol in zip(tops, symbols, strict=True) if symbol == ESCAPE]
        blob += len(escapes).to_bytes(4, "little") + b"".join(top.to_bytes(2, "little") for top in escapes)
    for c, begin, end in runs(head, channels * kernel):
        zeros, out = head.zeros[c], BitWriter()
        for word in words[begin:end]:
            mantissa = word & ((1 << (bits - 1 - head.top_bits)) - 1)
            out.put(mantissa >> zeros << 1 | word >> (bits - 1), bits - head.top_bits - zeros)
        blob += out.to_bytes()
    return blob


def decode(blob, bits, shape):
    rows, channels, kernel = shape
    count = rows * channels * kernel
    head, blob = read_head(blob, rows)
    method = blob[0]
    size, blob = take_size(blob[1:])
    coded, blob = take(blob, size)
    symbols = decode_symbols(method, coded, count, shape)
    tops = symbols
    if head.top_bits > 8:
        size, blob = take_size(blob)
        escapes, blob = take(blob, 2 * size)
        escapes = iter([int.from_bytes(escapes[i : i + 2], "little") for i in range(0, len(escapes), 2)])
        tops = [
            next(escapes) if s == ESCAPE else 0 if s == ZERO_TOP else s - FIRST_TOP + head.first_top for s in symbols
        ]
        if next(escapes, None) is not None:
            raise Corrupt("escapes are left")
    words = [0] * count
    for c, begin, end in runs(head, channels * kernel):
        width = bits - head.top_bits - head.zeros[c]
        fields, blob = take(blob, -(-(end - begin) * width // 8))
        reader = BitReader(fields)
        for i in range(begin, end):
            field = reader.get(width)
            mantissa, sign = field >> 1 << head.zeros[c], field & 1
            words[i] = sign << (bits - 1) | tops[i] << (bits - 1 - head.top_bits) | mantissa
    if blob:
        raise Corrupt("bytes are left")
    return words
