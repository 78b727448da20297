// Which static coder suits a stream, decided from its histogram alone: only the winner encodes.
#pragma once

#include <cstdint>
#include <span>

#include "coding/bitio.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// The numbers that name the methods in files.
enum class StaticMethod : std::uint8_t { raw = 0, rans = 1, huffman = 2, register_rans = 10 };

struct StaticBlob {
    StaticMethod method = StaticMethod::raw;
    Bytes bytes;  // none for raw: whoever needs packed bits packs them
};

// Encodes at least one symbol, all within the range of `kind`, by the coder that takes fewest
// bytes; raw if none takes fewer than packed bits do. With `fast` the coder with tables in
// registers, which decodes several times faster, may take a little more than the others.
template <typename T>
StaticBlob static_encode(std::span<const T> symbols, SymbolKind kind, bool fast);

}  // namespace tersor
