// The lanes of a rANS payload, decoded: scalar, and with AVX2. Both give the same symbols.
#pragma once

#include <cstdint>
#include <span>

#include "coding/bitio.hpp"
#include "coding/frequency_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Decodes states and words, all of `payload`, into `symbols` (low split bits zero). `table` is not
// constant.
template <typename T>
[[nodiscard]] bool decode_lanes(ByteView payload, std::span<T> symbols, SymbolKind kind,
                                const FrequencyTable& table);

}  // namespace tersor
