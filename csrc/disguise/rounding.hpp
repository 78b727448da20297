// Rounding of float32 numbers to the precision of a narrower float, in plain float32 arithmetic.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tersor::disguise {

// The dtype that a tensor's values were rounded to when it was written.
enum class Precision { single, half, bfloat };

// The number of that precision nearest to `x`, ties to even; infinity beyond its range.
inline float round_to(float x, Precision precision) noexcept {
    if (precision == Precision::single) return x;
    const uint32_t raw = std::bit_cast<uint32_t>(x);
    const int drop = precision == Precision::half ? 13 : 16;
    if (precision == Precision::half && std::fabs(x) < 0x1p-14f) {
        // Subnormal halves are multiples of 2^-24, the spacing of float32 between 0.5 and 1.
        return std::copysign((std::fabs(x) + 0.5f) - 0.5f, x);
    }
    const uint32_t half = (1u << (drop - 1)) - 1;
    const uint32_t kept = (raw + half + ((raw >> drop) & 1)) & ~((1u << drop) - 1);
    const float rounded = std::bit_cast<float>(kept);
    if (precision == Precision::half && std::fabs(rounded) > 65504.0f)
        return std::copysign(std::numeric_limits<float>::infinity(), x);
    return rounded;
}

// How far below and above the positive, finite `x` a number may be that is rounded to it.
struct Slack {
    double below, above;
};

inline Slack rounding_slack(float x, Precision precision) noexcept {
    const int bits = precision == Precision::single ? 23 : precision == Precision::half ? 10 : 7;
    const int least = precision == Precision::half ? -14 : -126;
    int exponent = 0;
    const bool power = std::frexp(x, &exponent) == 0.5f;
    exponent -= 1;
    const double ulp = std::ldexp(1.0, std::max(exponent, least) - bits);
    return {power && exponent > least ? ulp / 4 : ulp / 2, ulp / 2};
}

}  // namespace tersor::disguise
