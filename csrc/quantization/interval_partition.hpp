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

// What the interval between two cuts takes off the sum of squares: sum^2 / weight.
inline double gain(const Cut& left, const Cut& right) noexcept {
    const double weight = right.weight - left.weight;
    const double sum = right.sum - left.sum;
    return weight > 0 ? sum * sum / weight : 0;
}

using CutWindows = std::span<const std::span<const Cut>>;

// Cut j of a partition is one of windows[j], which ascend within a window; positions tell the
// order. The first and the last window hold one cut, the two ends. Returns an index into each
// window that minimises the sum of squared distances to the interval means, which is to maximise
// the sum of gains. No interval is empty; there must be such a partition.
std::vector<size_t> best_partition(CutWindows windows);

// For each cut of each window, the largest sum of gains of a partition of what lies left of it
// whose cuts are in the windows before. Here intervals may be empty.
std::vector<std::vector<double>> best_gains(CutWindows windows);

}  // namespace tersor::kmeans
