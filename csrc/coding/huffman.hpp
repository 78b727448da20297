// Canonical Huffman codes of limited length (package-merge: Larmore and Hirschberg 1990).
//
// A blob is one stream of bits: whether it is constant, the alphabet, the codeword lengths
// (width_code.hpp), then for each symbol its codeword, first bit first, and its `split` low bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/frequency_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Lengths of codewords of at most `limit` bits that code `counts` in the fewest bits; 0 where a
// count is 0. Needs two counts that are not zero, at most 2^limit. Equal counts are ordered by
// index, and codewords before packages.
std::vector<std::uint8_t> code_lengths(std::span<const std::uint64_t> counts, unsigned limit);

struct HuffmanPlan {
    Alphabet alphabet;
    std::vector<std::uint8_t> lengths;  // alphabet.size of them, empty for a constant stream
    std::uint64_t cost = 0;             // of the whole blob, in 2^-16 bits
};

// The code for these counts of indices (2^bits of them, at least one not zero).
HuffmanPlan plan_huffman(std::span<const std::uint64_t> counts, SymbolKind kind);

// Encodes at least one symbol, all within the range of `kind`, with the plan of their histogram.
template <typename T>
Bytes huffman_encode(std::span<const T> symbols, SymbolKind kind, const HuffmanPlan& plan);
template <typename T>
Bytes huffman_encode(std::span<const T> symbols, SymbolKind kind);

// Fills `symbols` from exactly all bytes of `blob`; false if the blob is malformed.
template <typename T>
[[nodiscard]] bool huffman_decode(ByteView blob, std::span<T> symbols, SymbolKind kind);

}  // namespace tersor
