// The best way to cut a sorted weighted sample into k intervals, by dynamic programming (Wang and
// Song 2011, "Ckmeans.1d.dp"), with divide and conquer over the monotone cuts.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace tersor::kmeans {

// A place between two neighbours of the sorted sample: how much lies left of it.
struct Cut {
    double weight;
    double sum;       // of weight times value
    size_t position;  // points left of it
};

// Cut j of a partition is one of windows[j], which ascend within a window and from window to
// window. The first and the last window hold one cut, the two ends. Returns an index into each
// window that minimises the sum of squared distances to the interval means, which is to maximise
// the sum of sum^2 / weight over the intervals.
std::vector<size_t> best_partition(std::span<const std::span<const Cut>> windows);

}  // namespace tersor::kmeans
