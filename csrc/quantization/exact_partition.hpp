// The best partition of a sample of numbers into intervals.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "quantization/interval_partition.hpp"

namespace tersor::kmeans {

struct Partition {
    double center;                     // cuts hold sums of value - center
    std::vector<Cut> cuts;             // one more than intervals
    std::vector<float> firsts, lasts;  // the smallest and the largest value of each interval
    bool proven;                       // that no partition is better
};

// Into `clusters` intervals, or as many as there are distinct values if they are fewer. All
// partitions are searched if there are at most 2^19 / clusters distinct values.
Partition exact_partition(std::span<const float> values, std::span<const float> weights,
                          size_t clusters);

}  // namespace tersor::kmeans
