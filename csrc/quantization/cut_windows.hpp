// Where the cuts of the best partition can lie, by bounds on what any partition gains.
#pragma once

#include <cstddef>
#include <vector>

#include "quantization/cells.hpp"

namespace tersor::kmeans {

// Indices of cuts of `Cells`, ascending: a cut of the best partition is one of them, or inside what
// lies between two neighbours.
using Window = std::vector<size_t>;

struct Narrowed {
    std::vector<size_t> best;  // the cuts of the best partition whose cuts are in the windows
    bool proven;               // that the best partition of all has its cuts in the windows
};

// `center` is what was taken off the values of which the cuts hold sums.
//
// Narrows the windows, of which the first and the last hold one cut, the two ends. In the end
// neighbours in a window are neighbours in `cells`.
//
// Each round solves two problems over the windows. Cutting where the windows say gives a partition,
// so a gain that the best one reaches. Replacing each group of cells by its weight at its two ends,
// with the same mean, gives a gain that no partition exceeds: for any centroids c the gain is the
// sum over points of max_j (2 c_j x - c_j^2), which is convex in x. A cut whose gain of the second
// kind is below the best of the first kind is ruled out; what remains is divided.
Narrowed narrow(const Cells& cells, double center, std::vector<Window>& windows);

}  // namespace tersor::kmeans
