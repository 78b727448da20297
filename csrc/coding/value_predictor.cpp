#include "coding/value_predictor.hpp"

#include <algorithm>

#include "coding/fixed_log.hpp"

namespace tersor {
namespace {

constexpr std::int64_t kMostPrediction = 1 << 23;  // 2^15
constexpr std::int64_t kMostWeight = 1 << 19;
constexpr std::int64_t kRate = 9;  // 9 / 2^8 = 0.035 of the error, spread over the inputs

}  // namespace

std::int32_t predict_value(ValueWeights& weights, const Place& place,
                           const std::int32_t* end) noexcept {
    const ValueWeights::Set& set = weights.at(place);
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < place.tap; ++i) {
        sum += static_cast<std::int64_t>(set[i]) * end[-1 - static_cast<std::ptrdiff_t>(i)];
    }
    return static_cast<std::int32_t>(
        std::clamp(rounded_shift(sum, 8), -kMostPrediction, kMostPrediction));
}

void learn_value(ValueWeights& weights, const Place& place, const std::int32_t* end,
                 std::int32_t prediction, std::int32_t value, std::int64_t mean) noexcept {
    // The power of the inputs, and of what they would be by the scale, so that small kernels teach
    // little.
    std::int64_t power = 16 + static_cast<std::int64_t>(place.tap) * (mean * mean >> 24);
    for (std::size_t i = 0; i < place.tap; ++i) {
        const std::int64_t x = end[-1 - static_cast<std::ptrdiff_t>(i)];
        power += x * x;
    }
    const int log = fixed_log2(static_cast<std::uint64_t>(power));
    const std::int64_t inverse = fixed_exp2(-(log & (kLogOne - 1)), 16);  // of its mantissa, 2^-16
    const int shift = (log >> 12) + 16;
    const std::int64_t error = ((static_cast<std::int64_t>(value) << 8) - prediction) * kRate;
    const std::int64_t scaled = rounded_shift(error * inverse, 8);
    ValueWeights::Set& set = weights.at(place);
    for (std::size_t i = 0; i < place.tap; ++i) {
        const std::int64_t x = end[-1 - static_cast<std::ptrdiff_t>(i)];
        const std::int64_t step = rounded_shift(scaled * x, shift - 8);
        set[i] = static_cast<std::int32_t>(std::clamp(set[i] + step, -kMostWeight, kMostWeight));
    }
}

}  // namespace tersor
