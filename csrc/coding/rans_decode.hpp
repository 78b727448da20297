// The lanes of a rANS payload, decoded: scalar, and with AVX2. Both give the same symbols.
#pragma once

#include <cstdint>
#include <span>

#include "coding/bitio.hpp"
#include "coding/frequency_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// States live in [2^15, 2^31) between symbols: below 2^31, division by multiplication is exact and
// signed comparisons work. The encoder starts at kRansLow, so the decoder must end there.
inline constexpr std::uint32_t kRansLow = 1u << 15;

// Decodes states and words, all of `payload`, into `symbols` (low split bits zero). `table` is not
// constant.
template <typename T>
[[nodiscard]] bool decode_lanes(ByteView payload, std::span<T> symbols, SymbolKind kind,
                                const FrequencyTable& table);

}  // namespace tersor
