// What a walk over a tensor remembers: values and magnitudes of this row and those above it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "coding/scale_predictor.hpp"
#include "coding/tensor_walk.hpp"
#include "coding/weight_contexts.hpp"

namespace tersor {

// Rows lie between zeros, so that neighbours beyond an edge are 0 without a question.
class RowHistory {
  public:
    explicit RowHistory(const TensorShape& shape)
        : shape_(shape),
          margin_(std::max<std::size_t>(shape.kernel, 2)),
          values_(2 * stride()),
          magnitudes_(3 * stride()) {
        for (std::size_t i = 0; i < 2; ++i) value_rows_[i] = &values_[i * stride() + margin_];
        for (std::size_t i = 0; i < 3; ++i) size_rows_[i] = &magnitudes_[i * stride() + margin_];
    }
    RowHistory(const RowHistory&) = delete;
    RowHistory& operator=(const RowHistory&) = delete;

    // The values of this row up to a column: the one before it is at [-1].
    const std::int32_t* values(std::size_t column) const noexcept {
        return value_rows_[0] + column;
    }

    Magnitudes magnitudes_near(const Place& place) const noexcept {
        const std::uint32_t* now = size_rows_[0] + place.column;
        const std::uint32_t* up = size_rows_[1] + place.column;
        const std::uint32_t* up2 = size_rows_[2] + place.column;
        Magnitudes near{now[-1], now[-2], up[0], up2[0], up[-1], up[1], 0, 0, 0};
        if (shape_.kernel > 1) {
            const auto kernel = static_cast<std::ptrdiff_t>(shape_.kernel);
            near.previous = now[-kernel];
            if (place.position >= shape_.width && shape_.width > 0) {
                near.above = now[-static_cast<std::ptrdiff_t>(shape_.width)];
            }
            near.kernel = place.position > 0 ? kernel_sum_ : 0;
        }
        return near;
    }

    Signs signs_near(const Place& place) const noexcept {
        const std::int32_t* now = value_rows_[0] + place.column;
        Signs signs{sign(now[-1]), sign(value_rows_[1][place.column]), 0, 0, 0};
        if (shape_.kernel > 1) {
            signs.previous = sign(now[-static_cast<std::ptrdiff_t>(shape_.kernel)]);
            if (place.position >= shape_.width && shape_.width > 0) {
                signs.above = sign(now[-static_cast<std::ptrdiff_t>(shape_.width)]);
            }
        }
        return signs;
    }

    void put(const Place& place, std::int32_t value, std::uint32_t magnitude) noexcept {
        value_rows_[0][place.column] = value;
        size_rows_[0][place.column] = magnitude;
        kernel_sum_ = (place.position > 0 ? kernel_sum_ : 0) + magnitude;
    }

    void next_row() noexcept {
        std::swap(value_rows_[0], value_rows_[1]);
        std::swap(size_rows_[1], size_rows_[2]);
        std::swap(size_rows_[0], size_rows_[1]);
    }

  private:
    static int sign(std::int32_t value) noexcept { return (value > 0) - (value < 0); }
    std::size_t stride() const noexcept { return margin_ + shape_.row_length() + 1; }

    const TensorShape& shape_;
    std::size_t margin_;
    std::vector<std::int32_t> values_;
    std::vector<std::uint32_t> magnitudes_;
    std::array<std::int32_t*, 2> value_rows_;  // this row, the one above
    std::array<std::uint32_t*, 3> size_rows_;  // and the one above that
    std::uint32_t kernel_sum_ = 0;
};

}  // namespace tersor
