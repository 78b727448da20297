#include "quantization/kmeans1d.hpp"

#include <algorithm>

#include "quantization/assign_codes.hpp"
#include "quantization/exact_partition.hpp"
#include "quantization/interval_partition.hpp"
#include "quantization/sorted_sample.hpp"

namespace tersor::kmeans {
namespace {

using Positions = std::vector<size_t>;  // first points of the clusters, and the end of the sample

double mean(double center, const Cut& left, const Cut& right) noexcept {
    return center + (right.sum - left.sum) / (right.weight - left.weight);
}

// Lloyd's algorithm on centroids: in one dimension, clusters are what lies between the midpoints.
Positions lloyd(const SortedSample& sample, std::vector<double> centroids, size_t iterations) {
    const auto values = sample.values();
    Positions positions(centroids.size() + 1, 0);
    positions.back() = values.size();
    for (size_t round = 0; round <= iterations; ++round) {
        bool moved = round == 0;
        for (size_t j = 1; j < centroids.size(); ++j) {
            const double middle = (centroids[j - 1] + centroids[j]) / 2;
            const auto at = std::lower_bound(values.begin(), values.end(), middle);
            const auto position = static_cast<size_t>(at - values.begin());
            moved |= position != positions[j];
            positions[j] = position;
        }
        if (!moved || round == iterations) break;
        Cut left = sample.cut(0);
        for (size_t j = 0; j < centroids.size(); ++j) {
            const Cut right = sample.cut(positions[j + 1]);
            // An empty cluster stays where it is; it may catch points later.
            if (right.position > left.position) centroids[j] = mean(sample.center(), left, right);
            left = right;
        }
    }
    return positions;
}

// splitmix64 (Steele, Lea and Flood 2014).
uint64_t next_random(uint64_t& state) noexcept {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

std::vector<double> initial(const SortedSample& sample, const Options& options) {
    const auto values = sample.values();
    const size_t n = values.size(), clusters = options.clusters;
    std::vector<double> centroids;
    uint64_t state = options.seed;
    for (size_t j = 0; j < clusters; ++j) {
        const double low = values.front(), high = values.back();
        switch (options.init) {
            case Init::linear:
                centroids.push_back(clusters == 1 ? (low + high) / 2
                                                  : low + (high - low) * static_cast<double>(j) /
                                                              static_cast<double>(clusters - 1));
                break;
            case Init::density:
                centroids.push_back(values[(2 * j + 1) * n / (2 * clusters)]);
                break;
            default:
                centroids.push_back(values[next_random(state) % n]);
        }
    }
    std::ranges::sort(centroids);
    centroids.erase(std::unique(centroids.begin(), centroids.end()), centroids.end());
    return centroids;
}

Partition lloyd_partition(std::span<const float> values, std::span<const float> weights,
                          const Options& options) {
    const SortedSample sample(values, weights);
    const auto sorted = sample.values();
    const Positions positions = lloyd(sample, initial(sample, options), options.iterations);
    Partition result{sample.center(), {sample.cut(0)}, {}, {}, false};
    for (size_t j = 0; j + 1 < positions.size(); ++j) {
        const size_t first = positions[j], last = positions[j + 1];
        if (first == last) continue;
        result.cuts.push_back(sample.cut(last));
        result.firsts.push_back(sorted[first]);
        result.lasts.push_back(sorted[last - 1]);
    }
    return result;
}

}  // namespace

Result cluster(std::span<const float> values, std::span<const float> weights,
               const Options& options, std::span<uint8_t> codes) {
    const auto [center, cuts, firsts, lasts, proven] =
        options.init == Init::exact ? exact_partition(values, weights, options.clusters)
                                    : lloyd_partition(values, weights, options);
    Result result{{}, 0, proven};
    for (size_t j = 0; j < firsts.size(); ++j) {
        // Rounding must not carry a centroid out of its cluster: equal values are represented
        // exactly.
        const auto centroid = static_cast<float>(mean(center, cuts[j], cuts[j + 1]));
        result.centroids.push_back(std::clamp(centroid, firsts[j], lasts[j]));
    }
    result.sse =
        assign_codes(values, weights, std::span(firsts).subspan(1), result.centroids, codes);
    return result;
}

}  // namespace tersor::kmeans
