// A first look at a tensor: what it might be in disguise, from a few hundred of its weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tersor::disguise {

enum class Numbers { single, half, bfloat, real64, other };

// What the sample does not exclude.
enum Hint : uint32_t {
    kFew = 1,        // few distinct values in the tensor
    kFewInRow = 2,   // in each row
    kZeros = 4,      // one in 16 is zero, at least
    kBfloat = 8,     // float32 values that bfloat16 has
    kHalf = 16,      // float32 values that float16 may have
    kSingle = 32,    // float64 values that float32 may have
    kIntegers = 64,  // whole numbers
    kGrid = 128,     // runs of rows whose values keep a distance
};

// Reads at most a thousand of the rows * length `words`; takes microseconds. Returns Hints.
template <typename Word>
uint32_t probe(std::span<const Word> words, size_t rows, size_t length, Numbers kind) noexcept;

}  // namespace tersor::disguise
