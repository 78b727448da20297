// A sample of numbers with weights, sorted, with sums over any range of it.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "quantization/interval_partition.hpp"

namespace tersor::kmeans {

class SortedSample {
  public:
    // Points of weight zero are left out. `weights` may be empty: all 1. Sums are taken of
    // value - center, by default the median.
    SortedSample(std::span<const float> values, std::span<const float> weights,
                 std::optional<double> center = std::nullopt);

    size_t size() const noexcept { return values_.size(); }
    std::span<const float> values() const noexcept { return values_; }

    double center() const noexcept { return center_; }

    // What lies left of point `position`.
    Cut cut(size_t position) const noexcept;

    // What lies in [first, last); the position is `last`.
    Cut sums(size_t first, size_t last) const noexcept;

  private:
    static constexpr size_t kBlock = 256;

    double weight(size_t i) const noexcept {
        return weights_.empty() ? 1.0 : static_cast<double>(weights_[i]);
    }

    std::vector<float> values_;
    std::vector<float> weights_;  // empty: all 1
    double center_ = 0;
    std::vector<Cut> blocks_;  // the cut before each block
};

}  // namespace tersor::kmeans
