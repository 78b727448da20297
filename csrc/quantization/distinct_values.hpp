// The distinct values of a sample, if they are few.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace tersor::kmeans {

struct DistinctValues {
    std::vector<float> values;    // ascending
    std::vector<double> weights;  // the sum of the weights of each
};

// Nothing if there are more than `limit`. Points of weight zero are left out; `weights` may be
// empty: all 1.
std::optional<DistinctValues> distinct_values(std::span<const float> values,
                                              std::span<const float> weights, size_t limit);

}  // namespace tersor::kmeans
