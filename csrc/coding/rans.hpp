// Interleaved static range asymmetric numeral systems (Duda 2013; interleaving after Giesen 2014).
//
// A blob: the frequency table (see frequency_table.hpp), padded to a byte; the `split` low bits of
// all symbols, packed; the lanes' states, four bytes each, then 16-bit words, all little-endian.
// Symbol i belongs to lane i mod L, L being a function of the count. A constant stream has neither
// states nor words.
#pragma once

#include <cstddef>
#include <span>

#include "coding/bitio.hpp"
#include "coding/frequency_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

struct RansPlan {
    FrequencyTable table;
    std::uint64_t cost = 0;  // about, of the whole blob, in 2^-16 bits
};

// The table for these counts of indices (2^bits of them, at least one not zero).
RansPlan plan_rans(std::span<const std::uint64_t> counts, SymbolKind kind);

// Encodes at least one symbol, all within the range of `kind`, with the plan of their histogram.
template <typename T>
Bytes rans_encode(std::span<const T> symbols, SymbolKind kind, const RansPlan& plan);
template <typename T>
Bytes rans_encode(std::span<const T> symbols, SymbolKind kind);

// Fills `symbols` from exactly all bytes of `blob`; false if the blob is malformed.
template <typename T>
[[nodiscard]] bool rans_decode(ByteView blob, std::span<T> symbols, SymbolKind kind);

// Lanes of a stream of `count` symbols: each costs two bytes and buys speed.
constexpr unsigned rans_lanes(std::size_t count) noexcept {
    return count < 4096 ? 1 : count < 65536 ? 4 : 32;
}

}  // namespace tersor
