// Words of floats as symbols and fields: the exponent with the top bits of the mantissa, and the
// rest as it is.
//
// Legend: a word has W bits: sign, exponent, mantissa. Its *top* is the `top_bits` bits below the
// sign. Its *field* is the mantissa's other bits without the `zeros` lowest, which are zero, times
// two, plus the sign: W - top_bits - zeros bits, at least 1 and at most 57. Fields are packed
// without gaps, from the least significant bit on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/bitio.hpp"

namespace tersor {

// How symbols stand for tops: top = symbol + base, but for symbol `zero`, which is top 0.
struct TopMap {
    unsigned top_bits = 8;
    std::uint32_t base = 0;  // modulo 2^32
    std::uint32_t zero = 0;
};

template <typename Word>
constexpr unsigned kWordBits = 8 * sizeof(Word);

template <typename Word>
constexpr unsigned field_bits(unsigned top_bits, unsigned zeros) noexcept {
    return kWordBits<Word> - top_bits - zeros;
}

template <typename Word>
inline std::uint32_t top_of(Word word, unsigned top_bits) noexcept {
    return static_cast<std::uint32_t>(static_cast<Word>(word << 1) >> (kWordBits<Word> - top_bits));
}

// Appends the fields of `words`; the last byte is padded.
template <typename Word>
void pack_fields(std::span<const Word> words, unsigned top_bits, unsigned zeros, Bytes& out);

// words[i] from symbols[i] and the field at bit i * field_bits of `fields`, for i from `begin` on;
// fields beyond what `fields` holds are undefined, but nothing outside of it is read.
template <typename Word>
void merge_fields(std::span<const std::uint8_t> symbols, const TopMap& map, ByteView fields,
                  unsigned zeros, std::size_t begin, Word* words);

}  // namespace tersor
