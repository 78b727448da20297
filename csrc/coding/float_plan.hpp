// How floats are cut into symbols and fields: decided from the words.
#pragma once

#include <span>

#include "coding/bucket_model.hpp"
#include "coding/float_layout.hpp"

namespace tersor {

// The layout for these words; false if they are no ordinary floats: many zeros, or tops without a
// pattern. With `small` tops have two bits of the mantissa, else as many as tables in registers
// carry.
template <typename Word>
[[nodiscard]] bool plan_floats(std::span<const Word> words, const MatrixShape& shape, bool small,
                               FloatLayout& layout);

}  // namespace tersor
