// What the next value will be, signs included.
//
// In a kernel: a linear prediction from the positions of the same kernel that came before it, whose
// weights are learned by normalised least mean squares. Neighbouring pixels of a kernel are alike;
// other channels and rows tell nothing. In a dense matrix: only which sign its column prefers.
//
// Units: predictions in 2^-8, weights in 2^-16, leanings in 2^-12.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "coding/counter.hpp"
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
