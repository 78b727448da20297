// From values and intervals to codes.
#pragma once

#include <cstdint>
#include <span>

namespace tersor::kmeans {

// Writes how many of `firsts` (ascending) are not above each value. Returns the sum over values of
// weight * (value - centroids[code])^2, always added in the same order; `weights` may be empty: all
// 1.
double assign_codes(std::span<const float> values, std::span<const float> weights,
                    std::span<const float> firsts, std::span<const float> centroids,
                    std::span<uint8_t> codes) noexcept;

}  // namespace tersor::kmeans
