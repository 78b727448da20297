// Symbols stored as they are: their indices, or the low bits of them, packed without gaps.
#pragma once

#include <cstddef>
#include <span>

#include "coding/bitio.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Bytes that `count` fields of `width` <= 16 bits take.
constexpr std::size_t packed_size(std::size_t count, unsigned width) noexcept {
    return static_cast<std::size_t>((static_cast<std::uint64_t>(count) * width + 7) / 8);
}

// Appends the `width` low bits of each index. Indices may be larger; their higher bits are dropped.
template <typename T>
void pack_low_bits(std::span<const T> symbols, SymbolKind kind, unsigned width, Bytes& out);

// The inverse for whole indices: symbols from fields of kind.bits bits. False unless `packed` has
// exactly the bytes needed and its padding is zero.
template <typename T>
[[nodiscard]] bool unpack_bits(ByteView packed, std::span<T> symbols, SymbolKind kind);

// Adds fields of `width` bits to symbols whose `width` low index bits are zero. Fails as
// `unpack_bits`.
template <typename T>
[[nodiscard]] bool add_low_bits(ByteView packed, unsigned width, std::span<T> symbols);

}  // namespace tersor
