// Neighbouring cells of the number line that hold a sample.
#pragma once

#include <vector>

#include "quantization/interval_partition.hpp"

namespace tersor::kmeans {

// Cell i holds what lies between cuts i and i + 1: values from low[i] to high[i].
struct Cells {
    std::vector<Cut> cuts;
    std::vector<float> low, high;
};

}  // namespace tersor::kmeans
