// What the next value of a kernel will be, signs included: a linear prediction from the positions
// of the same kernel that came before it, whose weights are learned by normalised least mean
// squares. Neighbouring pixels of a kernel are alike; other channels and rows tell nothing.
//
// Units: predictions in 2^-8, weights in 2^-16.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "coding/tensor_walk.hpp"

namespace tersor {

class ValueWeights {
  public:
    static constexpr std::size_t kInputs = kTaps - 1;
    using Set = std::array<std::int32_t, kInputs>;
    Set& at(const Place& place) noexcept { return sets_[place.kind][place.tap]; }

  private:
    std::array<std::array<Set, kTaps>, kKernelKinds> sets_{};
};

// The prediction for a place whose `place.tap` predecessors in the kernel end at `end`.
std::int32_t predict_value(ValueWeights& weights, const Place& place,
                           const std::int32_t* end) noexcept;

// Learns from the value that came; `mean` is the expected magnitude in 2^-12.
void learn_value(ValueWeights& weights, const Place& place, const std::int32_t* end,
                 std::int32_t prediction, std::int32_t value, std::int64_t mean) noexcept;

}  // namespace tersor
