// k-means of numbers: sorted once, the best intervals found by dynamic programming.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tersor::kmeans {

enum class Init { exact, linear, density, random };

struct Options {
    size_t clusters;  // 1 .. 256
    Init init;
    size_t iterations;  // of Lloyd's algorithm; not used by `exact`
    uint64_t seed;      // of `random`
};

struct Result {
    std::vector<float> centroids;  // ascending
    double sse;                    // sum of squared errors, weighted
    bool proven;                   // that no clustering has less error, but for rounding
};

// Clusters `values`, writes the cluster of each into `codes`. `weights` are empty (all 1) or as
// many as values. Values must be finite; weights finite, not negative and not all zero.
Result cluster(std::span<const float> values, std::span<const float> weights,
               const Options& options, std::span<uint8_t> codes);

}  // namespace tersor::kmeans
