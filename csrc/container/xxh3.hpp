// XXH3, 64 bits, seed 0, default secret: the checksum of a chunk (github.com/Cyan4973/xxHash,
// doc/xxhash_spec.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tersor {

// Not cryptographic: it finds accidents, not attacks.
uint64_t xxh3_64(std::span<const uint8_t> data) noexcept;

}  // namespace tersor
