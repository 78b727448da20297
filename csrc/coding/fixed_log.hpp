// Base-2 logarithms and powers in fixed point. Logarithms are in 2^-12 ("log" below means these).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace tersor {

inline constexpr int kLogOne = 1 << 12;  // log2(2)

struct FixedLogTables {
    std::array<std::uint16_t, 1024> log2;  // floor(2^12 log2(1 + i / 1024))
    std::array<std::uint32_t, 256> exp2;   // round(2^16 * 2^(i / 256))
};
extern const FixedLogTables kFixedLog;

// 2^12 log2(x) for x > 0, from the upper 11 bits of x.
inline int fixed_log2(std::uint64_t x) noexcept {
    const int top = static_cast<int>(std::bit_width(x)) - 1;
    const std::uint64_t mantissa = top >= 10 ? x >> (top - 10) : x << (10 - top);
    return top * kLogOne + kFixedLog.log2[mantissa & 1023];
}

// 2^point * 2^(log / 2^12), truncated, from the upper 20 bits of `log`; results must be below 2^62.
inline std::int64_t fixed_exp2(int log, int point) noexcept {
    const int shift = (log >> 12) + point - 16;
    const std::int64_t mantissa = kFixedLog.exp2[static_cast<std::size_t>(log >> 4 & 255)];
    if (shift >= 0) return mantissa << shift;
    return shift > -32 ? mantissa >> -shift : 0;
}

// value / 2^shift, rounded to nearest. Truncation instead would make what is learned drift down.
inline std::int64_t rounded_shift(std::int64_t value, int shift) noexcept {
    return (value + (std::int64_t{1} << (shift - 1))) >> shift;
}

}  // namespace tersor
