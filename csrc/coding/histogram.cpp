#include "coding/histogram.hpp"

#include <bit>

namespace tersor {
namespace {

// Four tables break the dependency between equal neighbours that a single one would have.
void count_bytes(std::span<const std::uint8_t> symbols, std::uint64_t* counts) {
    std::vector<std::uint64_t> tables(4 * 256);
    std::size_t i = 0;
    for (; i + 4 <= symbols.size(); i += 4) {
        ++tables[symbols[i]];
        ++tables[256 + symbols[i + 1]];
        ++tables[512 + symbols[i + 2]];
        ++tables[768 + symbols[i + 3]];
    }
    for (; i < symbols.size(); ++i) ++tables[symbols[i]];
    for (unsigned v = 0; v < 256; ++v) {
        counts[v] = tables[v] + tables[256 + v] + tables[512 + v] + tables[768 + v];
    }
}

}  // namespace

template <typename T>
Counts histogram(std::span<const T> symbols, SymbolKind kind) {
    constexpr std::size_t kValues = std::size_t{1} << (8 * sizeof(T));
    Counts by_value(kValues);
    if constexpr (sizeof(T) == 1) {
        count_bytes(symbols, by_value.data());
    } else {
        for (const T symbol : symbols) ++by_value[symbol];
    }
    Counts counts(kind.alphabet());
    for (std::size_t value = 0; value < kValues; ++value) {
        if (by_value[value] == 0) continue;
        const std::uint32_t index = to_index(static_cast<T>(value), kind);
        if (index >= kind.alphabet()) return {};
        counts[index] = by_value[value];
    }
    return counts;
}

template Counts histogram<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind);
template Counts histogram<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind);

std::uint64_t log2_fixed(std::uint64_t value) noexcept {
    const unsigned whole = static_cast<unsigned>(std::bit_width(value)) - 1;
    // The mantissa in [1, 2) with 31 fractional bits; each squaring yields the next bit of the
    // logarithm.
    std::uint64_t mantissa = whole <= 31 ? value << (31 - whole) : value >> (whole - 31);
    std::uint64_t log = whole;
    for (int bit = 0; bit < 16; ++bit) {
        mantissa = (mantissa * mantissa) >> 31;
        log <<= 1;
        if (mantissa >> 32) {
            mantissa >>= 1;
            log |= 1;
        }
    }
    return log;
}

std::uint64_t entropy_fixed(std::span<const std::uint64_t> counts) noexcept {
    std::uint64_t total = 0;
    for (const std::uint64_t c : counts) total += c;
    if (total == 0) return 0;
    const std::uint64_t log_total = log2_fixed(total);
    std::uint64_t entropy = 0;
    for (const std::uint64_t c : counts) {
        if (c > 0) entropy += c * (log_total - log2_fixed(c));
    }
    return entropy;
}

}  // namespace tersor
