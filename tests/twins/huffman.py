"""Canonical, length-limited Huffman coding with explicit packages: the twin of csrc/coding/huffman.cpp."""

from __future__ import annotations

from tests.twins.bits import BitReader, BitWriter, get_widths, put_widths
from tests.twins.frequency_table import count_alphabet, put_alphabet


def code_lengths(counts, limit):
    """Package-merge with every package's list of symbols spelled out."""
    singles = sorted((c, i) for i, c in enumerate(counts) if c)
    singles = [(c, [i]) for c, i in singles]
    below = []
    for _ in range(limit):
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(below[0::2], below[1::2], strict=False)]
        below = sorted(singles + packages, key=lambda item: item[0])  # stable: singles before packages
    lengths = [0] * len(counts)
    for _, symbols in below[: 2 * len(singles) - 2]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def codewords(lengths):
    """symbol -> codeword as a string of 0 and 1."""
    words = {}
    value = 0
    for length in range(1, max(lengths) + 1):
        for symbol, this in enumerate(lengths):
            if this == length:
                words[symbol] = f"{value:0{length}b}"
                value += 1
        value *= 2
    return words


def encode(indices, bits):
    split, first, counts = count_alphabet(indices, bits)
    constant = len(counts) == 1
    out = BitWriter()
    out.put(int(constant), 1)
    put_alphabet(out, bits, split, first, None if constant else len(counts))
    words = {0: ""}
    if not constant:
        lengths = code_lengths(counts, 12 if len(counts) <= 256 else 15)
        put_widths(out, lengths, len(lengths).bit_length())
        words = codewords(lengths)
    for index in indices:
        out.bits += [int(bit) for bit in words[(index >> split) - first]]
        out.put(index & ((1 << split) - 1), split)
    return out.to_bytes()


def decode(blob, count, bits):
    reader = BitReader(blob)
    split = max(0, bits - 12)
    constant = reader.get(1)
    first = reader.get(bits - split)
    symbols = {"": 0}
    if not constant:
        size = reader.get(bits - split) + 1
        lengths = get_widths(reader, size, size.bit_length())
        symbols = {word: symbol for symbol, word in codewords(lengths).items()}
    indices = []
    for _ in range(count):
        word = ""
        while word not in symbols:
            word += str(reader.get(1))
        indices.append((first + symbols[word] << split) + reader.get(split))
    reader.align()
    return indices
