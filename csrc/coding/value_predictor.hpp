// What the next value will be, signs included.
//
// In a kernel: a linear prediction from the positions of the same kernel that came before it, whose
// weights are learned by normalised least mean squares. Neighbouring pixels of a kernel are alike;
// other channels and rows tell nothing. In a dense matrix: only which sign its column prefers.
//
// Units: predictions in 2^-8, weights in 2^-16, leanings in 2^-12.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "coding/counter.hpp"
#include "coding/fixed_log.hpp"
#include "coding/tensor_walk.hpp"

namespace tersor {

// The weights of a place lie as their inputs do in memory: the last belongs to the value just
// before. Those of values that are not of the kernel are 0.
class ValueWeights {
  public:
    static constexpr std::size_t kInputs = kTaps - 1;
    using Set = std::array<std::int32_t, kInputs>;
    Set& at(const Place& place) noexcept { return sets_[place.kind][place.tap]; }

  private:
    std::array<std::array<Set, kTaps>, kKernelKinds> sets_{};
};

// A value as it was predicted for one position, and how far an error moves the weights.
struct ValuePrediction {
    std::int32_t value;    // in 2^-8
    int shift;             // of
    std::int64_t inverse;  // 2^16 / the mantissa of the power of the inputs
};

namespace value_detail {

inline constexpr std::int64_t kMostPrediction = 1 << 23;  // 2^15
inline constexpr std::int64_t kMostWeight = 1 << 19;
inline constexpr std::int64_t kRate = 9;  // 9 / 2^8 = 0.035 of the error, spread over the inputs

// work(count), count a constant: how many of the last inputs are looked at, all of a 3x3 kernel or
// of a 5x5 one. A loop as long as there are inputs would end in a mispredicted branch every time.
template <typename Work>
inline void for_inputs(std::size_t tap, Work work) noexcept {
    if (tap <= 8) {
        work(std::integral_constant<std::size_t, 8>{});
    } else {
        work(std::integral_constant<std::size_t, ValueWeights::kInputs>{});
    }
}

// Ones where there is an input: the `tap` last ones of all.
inline constexpr auto kThere = [] {
    std::array<std::array<std::int32_t, ValueWeights::kInputs>, kTaps> masks{};
    for (std::size_t tap = 0; tap < kTaps; ++tap) {
        for (std::size_t i = 0; i < tap; ++i) masks[tap][ValueWeights::kInputs - 1 - i] = -1;
    }
    return masks;
}();

}  // namespace value_detail

// The prediction for a place whose `place.tap` predecessors in the kernel end at `end`; any kInputs
// values can be read there. `mean` is the expected magnitude in 2^-12.
inline ValuePrediction predict_value(ValueWeights& weights, const Place& place,
                                     const std::int32_t* end, std::int64_t mean) noexcept {
    using namespace value_detail;
    const ValueWeights::Set& set = weights.at(place);
    const auto& there = kThere[place.tap];
    std::int64_t sum = 0;
    // The power of the inputs, and of what they would be by the scale, so that small kernels teach
    // little.
    std::int64_t power = 16 + static_cast<std::int64_t>(place.tap) * (mean * mean >> 24);
    for_inputs(place.tap, [&](auto count) {
        const std::int32_t* inputs = end - count;
        const std::size_t first = set.size() - count;
        for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t x = inputs[i] & there[first + i];
            sum += set[first + i] * x;
            power += x * x;
        }
    });
    const int log = fixed_log2(static_cast<std::uint64_t>(power));
    return {static_cast<std::int32_t>(
                std::clamp(rounded_shift(sum, 8), -kMostPrediction, kMostPrediction)),
            (log >> 12) + 16, fixed_exp2(-(log & (kLogOne - 1)), 16)};
}

// Learns from the value that came.
inline void learn_value(ValueWeights& weights, const Place& place, const std::int32_t* end,
                        const ValuePrediction& prediction, std::int32_t value) noexcept {
    using namespace value_detail;
    const std::int64_t error = ((static_cast<std::int64_t>(value) << 8) - prediction.value) * kRate;
    const std::int64_t scaled = rounded_shift(error * prediction.inverse, 8);
    ValueWeights::Set& set = weights.at(place);
    const auto& there = kThere[place.tap];
    for_inputs(place.tap, [&](auto count) {
        const std::int32_t* inputs = end - count;
        const std::size_t first = set.size() - count;
        for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t x = inputs[i] & there[first + i];
            const std::int64_t step = rounded_shift(scaled * x, prediction.shift - 8);
            set[first + i] = static_cast<std::int32_t>(
                std::clamp(set[first + i] + step, -kMostWeight, kMostWeight));
        }
    });
}

// The mean sign of each column of one tensor.
class ColumnLeanings {
  public:
    static constexpr std::size_t kLevels = 15 * 3;

    explicit ColumnLeanings(std::size_t columns) : columns_(columns) {}

    // How a column leans, in 15 levels, and how sure that is, in 3.
    std::size_t level(std::size_t column) const noexcept {
        const Column& c = columns_[column];
        const std::size_t sure = c.seen < 4 ? 0 : c.seen < 20 ? 1 : 2;
        return sure * 15 + static_cast<std::size_t>((c.mean * 7 + (7 << 12) + (1 << 11)) >> 12);
    }

    void learn(std::size_t column, std::int32_t value) noexcept {
        if (value == 0) return;
        Column& c = columns_[column];
        const std::int32_t error = (value > 0 ? 1 << 12 : -(1 << 12)) - c.mean;
        c.mean += (error * kCounterRates[c.seen]) >> 16;
        if (c.seen < kMostSeen) ++c.seen;
    }

  private:
    static constexpr std::uint32_t kMostSeen = 100;
    struct Column {
        std::int32_t mean = 0;
        std::uint32_t seen = 0;
    };
    std::vector<Column> columns_;
};

}  // namespace tersor
