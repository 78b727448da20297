// How coders see an array of small integers: as indices 0 .. 2^bits - 1.
//
// Legend: T is uint8_t or uint16_t, the storage of one symbol (int8 and int16 arrays are viewed as
// these).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tersor {

// What a decoder is told of a stream besides its bytes. index = T(symbol + offset) < 2^bits, where
// the offset is 0 for unsigned symbols and 2^(bits-1) for signed ones.
struct SymbolKind {
    unsigned bits;         // 1..16, at most the width of T
    std::uint32_t offset;  // 0 or 2^(bits-1)

    std::uint32_t alphabet() const noexcept { return 1u << bits; }
};

template <typename T>
inline std::uint32_t to_index(T symbol, SymbolKind kind) noexcept {
    return static_cast<T>(symbol + kind.offset);
}

template <typename T>
inline T from_index(std::uint32_t index, SymbolKind kind) noexcept {
    return static_cast<T>(index - kind.offset);
}

template <typename T>
inline bool in_range(std::span<const T> symbols, SymbolKind kind) noexcept {
    T seen = 0;
    for (const T symbol : symbols)
        seen = static_cast<T>(seen | static_cast<T>(symbol + kind.offset));
    return seen < kind.alphabet();
}

// Alphabets larger than this are split: the top bits are coded, the `split` low bits are stored as
// they are.
inline constexpr unsigned kMaxCodedBits = 12;

}  // namespace tersor
