// Probabilities and their logits in fixed point.
//
// Units: probabilities are of "true", in 2^-16; logits are ln(p / (1 - p)) in 2^-8, from -2047 to
// 2047.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tersor {

inline constexpr int kMaxLogit = 2047;

struct LogisticTables {
    std::array<std::uint16_t, 2 * kMaxLogit + 2> squash;  // by logit + kMaxLogit + 1
    std::array<std::int16_t, 4096> stretch;               // by probability >> 4
};
extern const LogisticTables kLogistic;

// The probability of a logit: interpolated between 33 points of 1 / (1 + exp(-x)), and at least
// 22 * 2^-16 from both ends, so that no decision costs more than 11.6 bits.
inline std::uint32_t squash(int logit) noexcept {
    return kLogistic.squash[static_cast<std::size_t>(logit + kMaxLogit + 1)];
}

// The logit of a probability: the inverse of `squash` on the upper 12 bits.
inline int stretch(std::uint32_t probability) noexcept {
    return kLogistic.stretch[probability >> 4];
}

}  // namespace tersor
