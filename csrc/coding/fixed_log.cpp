#include "coding/fixed_log.hpp"

namespace tersor {
namespace {

// 12 bits of log2 of mantissa / 2^10 in [1, 2): squaring doubles the logarithm, whose next bit is
// whether the square reaches 2.
constexpr std::uint16_t fraction_of_log2(std::uint64_t mantissa) {
    std::uint64_t x = mantissa << 21;  // in 2^-31
    std::uint32_t bits = 0;
    for (int i = 0; i < 12; ++i) {
        x = x * x >> 31;
        bits = bits << 1 | static_cast<std::uint32_t>(x >> 32);
        if (x >> 32) x >>= 1;
    }
    return static_cast<std::uint16_t>(bits);
}

// 2^(1/2), 2^(1/4), ..., 2^(1/256) in 2^-31.
constexpr std::array<std::uint64_t, 8> kRoots = {3037000500, 2553802834, 2341847524, 2242560872,
                                                 2194507417, 2170868212, 2159144272, 2153306067};

constexpr FixedLogTables make_tables() {
    FixedLogTables tables{};
    for (std::size_t i = 0; i < tables.log2.size(); ++i) {
        tables.log2[i] = fraction_of_log2(1024 + i);
    }
    for (std::size_t i = 0; i < tables.exp2.size(); ++i) {
        std::uint64_t power = std::uint64_t{1} << 31;
        for (std::size_t bit = 0; bit < 8; ++bit) {
            if (i >> (7 - bit) & 1) power = (power * kRoots[bit] + (1u << 30)) >> 31;
        }
        tables.exp2[i] = static_cast<std::uint32_t>((power + (1 << 14)) >> 15);
    }
    return tables;
}

}  // namespace

constexpr FixedLogTables kFixedLog = make_tables();

}  // namespace tersor
