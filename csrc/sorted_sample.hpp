// A sample of numbers with weights, sorted, with sums over any range of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "interval_partition.hpp"

namespace tersor::kmeans {

class SortedSample {
  public:
    // Points of weight zero are left out. `weights` may be empty: all 1.
    SortedSample(std::span<const float> values, std::span<const float> weights);

    size_t size() const noexcept { return values_.size(); }
    std::span<const float> values() const noexcept { return values_; }

    // Sums are taken of value - center().
    double center() const noexcept { return center_; }

    // What lies left of point `position`.
    Cut cut(size_t position) const noexcept;

    // The cuts first, first + stride .. last, both included; inside a run of equal values there is
    // none.
    std::vector<Cut> cuts(size_t first, size_t last, size_t stride) const;

    // Sum of weight * (value - centroid)^2 over [first, last).
    double squared_error(size_t first, size_t last, double centroid) const noexcept;

  private:
    static constexpr size_t kBlock = 256;

    double weight(size_t i) const noexcept {
        return weights_.empty() ? 1.0 : static_cast<double>(weights_[i]);
    }
    Cut sums(size_t first, size_t last) const noexcept;

    std::vector<float> values_;
    std::vector<float> weights_;  // empty: all 1
    double center_ = 0;
    std::vector<Cut> blocks_;  // the cut before each block
};

}  // namespace tersor::kmeans
