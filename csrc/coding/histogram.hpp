// Histograms of symbol arrays and the entropy they imply.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "coding/symbols.hpp"

namespace tersor {

using Counts = std::vector<std::uint64_t>;

// How often each index occurs: 2^bits counts. Empty if a symbol lies outside of `kind`'s range.
template <typename T>
Counts histogram(std::span<const T> symbols, SymbolKind kind);

// log2(value) in units of 2^-16 bits, rounded down; value >= 1. Integer arithmetic: the same
// everywhere, because encoders base choices on it and their bytes must not depend on a math
// library.
std::uint64_t log2_fixed(std::uint64_t value) noexcept;

// Order-0 entropy of a histogram in units of 2^-16 bits: sum of c log2(n / c).
std::uint64_t entropy_fixed(std::span<const std::uint64_t> counts) noexcept;

}  // namespace tersor
