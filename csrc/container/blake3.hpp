// BLAKE3, default hash mode: the content id of a file (github.com/BLAKE3-team/BLAKE3-specs, section
// 2).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tersor {

class Blake3 {
  public:
    // The first 64 bytes of the output; any prefix of it is a valid shorter digest.
    using Digest = std::array<uint8_t, 64>;

    void update(std::span<const uint8_t> data) noexcept;

    // The digest of all bytes so far. Further updates are allowed.
    Digest digest() const noexcept;

    static constexpr size_t kChunkBytes = 1024;
    using ChainingValue = std::array<uint32_t, 8>;

  private:
    void add_subtree(const uint8_t* data, size_t chunks) noexcept;

    // The last bytes seen: they are not hashed before more follow, because the last chunk is
    // finished differently.
    std::array<uint8_t, kChunkBytes> tail_;
    size_t tail_bytes_ = 0;
    uint64_t chunks_ = 0;  // hashed and in the tree
    // Roots of complete subtrees, largest first: one for every bit that is set in chunks_.
    std::array<ChainingValue, 64> roots_;
};

}  // namespace tersor
