// The lanes of a rANS payload, encoded: scalar, and with AVX2. Both write the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/frequency_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Bytes of the buffer that `encode_lanes` needs for so many symbols.
std::size_t encode_capacity(std::size_t symbols) noexcept;

// Encodes states and words backwards from the end of the buffer, whose size is `encode_capacity`;
// returns where they start. `table` is not constant.
template <typename T>
std::uint8_t* encode_lanes(std::span<const T> symbols, SymbolKind kind, const FrequencyTable& table,
                           std::uint8_t* end);

}  // namespace tersor
