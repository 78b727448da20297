// Floats as integers of the same order.
#pragma once

#include <bit>
#include <cstdint>

namespace tersor::kmeans {

// Adding zero makes -0 the same as 0. No finite value has the key 0 or 2^32 - 1.
inline uint32_t order_key(float value) noexcept {
    const auto bits = std::bit_cast<uint32_t>(value + 0.0f);
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

inline float from_key(uint32_t key) noexcept {
    return std::bit_cast<float>(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}

}  // namespace tersor::kmeans
