// Weights that lie on a grid per run (a group, a row or a tensor), exactly: the grids' steps and
// the weights' levels.
//
// Legend: x weights of a run, d its step, m its offset, k levels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "disguise/distinct_words.hpp"
#include "disguise/rounding.hpp"

namespace tersor::disguise {

// through_zero: x = k d, -255 <= k <= 255. offset: x = k d + m, 0 <= k <= 255. Each operation is
// rounded to float32, the result to the tensor's precision.
enum class GridForm { through_zero, offset };

// The level of the zero whose sign is not that of 0 * d.
constexpr int16_t kOtherZero = -32768;

// d = float16(range / levels), m = the smallest weight; or d = float16(the largest magnitude /
// levels), of the sign of that weight / levels: what GGUF's blocks and most quantizers per group
// use.
struct Formula {
    float levels;
    bool signed_extreme;
};

// Fits runs of weights that were rounded to `precision`, one at a time. Holds what it learns of the
// tensor: the formula that fitted last is tried first, so runs must come in a fixed order.
class GridFitter {
  public:
    GridFitter(GridForm form, Precision precision) noexcept : form_(form), precision_(precision) {}

    // True if all of `x` lie on one grid, bit by bit: then `levels`, of the size of `x`, `step` and
    // `offset` (0 for a grid through zero) are set. A run of equal weights always does.
    bool fit(std::span<const float> x, std::span<int16_t> levels, float& step,
             float& offset) noexcept;

  private:
    bool fit_formula(std::span<const float> x, std::span<int16_t> levels, float& step,
                     float& offset) noexcept;
    bool fit_distinct(std::span<const float> x, std::span<int16_t> levels, float& step,
                      float& offset) noexcept;

    GridForm form_;
    Precision precision_;
    WordSet<uint32_t> found_;
    size_t formula_ = 0;
};

}  // namespace tersor::disguise
