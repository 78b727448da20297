// Static order-0 models: frequencies of the symbols of one stream that sum to a power of two, and
// the bit code of such a table at the head of the stream.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/histogram.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Which indices of a stream occur: top bits in [first, first + size), of indices shifted right by
// `split`.
struct Alphabet {
    unsigned split = 0;
    std::uint32_t first = 0;
    std::uint32_t size = 0;
};

// frequencies[i] is that of top index first + i; they sum to 2^scale_bits. A constant stream has
// scale_bits 0 and the one frequency 1.
struct FrequencyTable {
    Alphabet alphabet;
    unsigned scale_bits = 0;
    std::vector<std::uint32_t> frequencies;
};

inline constexpr unsigned kMinScaleBits = 6;
inline constexpr unsigned kMaxScaleBits = 14;
// Up to 256 symbols a table entry of the decoder fits into 32 bits if the scale has at most 12.
inline constexpr unsigned kMaxNarrowScaleBits = 12;

// Bits that are split off for symbols of this many bits.
constexpr unsigned split_bits(unsigned bits) noexcept {
    return bits > kMaxCodedBits ? bits - kMaxCodedBits : 0;
}

// Counts of top indices and where they lie. `counts` (2^bits of them) must hold at least one
// symbol.
struct CountedAlphabet {
    Alphabet alphabet;
    Counts counts;  // alphabet.size of them; the first and the last are not zero
};
CountedAlphabet count_alphabet(std::span<const std::uint64_t> counts, SymbolKind kind);

// Frequencies near counts * 2^scale_bits / total, at least 1 where the count is: rounded, then
// raised or lowered one by one where the coded length grows least (largest count / (f + 1/2),
// smallest count / (f - 1/2); the lower index wins ties). 2^scale_bits must not be below the number
// of used symbols.
std::vector<std::uint32_t> normalize(std::span<const std::uint64_t> counts, unsigned scale_bits);

// The table whose own bits plus the bits of the stream coded with it are fewest; streams of 2^16
// symbols or more simply take the finest scale.
FrequencyTable choose_table(const CountedAlphabet& counted, SymbolKind kind);

// Bits of the table itself and of symbols with these counts, coded with it, in 2^-16 bits.
std::uint64_t table_cost(const FrequencyTable& table, std::span<const std::uint64_t> counts,
                         SymbolKind kind);

void write_table(BitWriter& out, const FrequencyTable& table, SymbolKind kind);

// Reads what `write_table` wrote; false if it is malformed or leaves the range of `kind`.
[[nodiscard]] bool read_table(BitReader& in, SymbolKind kind, FrequencyTable& table);

// The alphabet's place: `first` and, unless constant, `size`; shared with the Huffman coder.
void write_alphabet(BitWriter& out, const Alphabet& alphabet, SymbolKind kind, bool constant);
[[nodiscard]] bool read_alphabet(BitReader& in, SymbolKind kind, bool constant, Alphabet& alphabet);

}  // namespace tersor
