// Little-endian loads from unaligned memory.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace tersor {

static_assert(std::endian::native == std::endian::little,
              "tersor supports little-endian hosts only");

template <class T>
inline T load(const uint8_t* p) noexcept {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

}  // namespace tersor
