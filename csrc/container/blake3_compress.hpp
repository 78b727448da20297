// The compression function of BLAKE3 (specification, section 2.2), on one message and on many at
// once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "container/blake3.hpp"

namespace tersor::blake3 {

using Words = std::array<uint32_t, 8>;

constexpr size_t kBlockBytes = 64;
constexpr Words kIv = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                       0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

enum Flag : uint32_t { kNone = 0, kChunkStart = 1, kChunkEnd = 2, kParent = 4, kRoot = 8 };

// Row r says which words of the first round's message round r takes, in order.
constexpr auto kSchedule = [] {
    constexpr std::array<size_t, 16> permutation = {2, 6,  3,  10, 7, 0,  4,  13,
                                                    1, 11, 12, 5,  9, 14, 15, 8};
    std::array<std::array<size_t, 16>, 7> rows{};
    for (size_t i = 0; i < 16; ++i) rows[0][i] = i;
    for (size_t r = 1; r < 7; ++r) {
        for (size_t i = 0; i < 16; ++i) rows[r][i] = rows[r - 1][permutation[i]];
    }
    return rows;
}();

// The full 16-word output; its first half is the next chaining value. `block` has 64 bytes, of
// which `bytes` count.
std::array<uint32_t, 16> compress(const Words& chaining, const uint8_t* block, uint64_t counter,
                                  uint32_t bytes, uint32_t flags) noexcept;

// Chaining values of `count` messages of `blocks` full blocks each, one message after the other in
// `messages`. Message i has the counter `counter + i * step`; `first` and `last` are flags of the
// first and last block.
struct Batch {
    const uint8_t* messages;
    size_t count;
    size_t blocks;
    uint64_t counter;
    uint64_t step;
    uint32_t flags, first, last;
};
void hash_batch(const Batch& batch, Words* out) noexcept;

}  // namespace tersor::blake3
