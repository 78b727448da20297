#include "kmeans1d.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "interval_partition.hpp"
#include "sorted_sample.hpp"

namespace tersor::kmeans {
namespace {

using Positions = std::vector<size_t>;  // first points of the clusters, and the end of the sample

// Up to so many distinct values times clusters, all partitions are searched at once.
constexpr size_t kExactWork = size_t{1} << 19;
constexpr size_t kAtoms = size_t{1} << 14;
constexpr size_t kCells = 2048, kCellsPerCluster = 16;
constexpr size_t kLloydBeforeSearch = 100;
constexpr size_t kFirstStride = size_t{1} << 13, kReach = 128;
constexpr size_t kRefinements = 64;

size_t distinct_values(std::span<const float> sorted) noexcept {
    size_t count = 1;
    for (size_t i = 1; i < sorted.size(); ++i) count += sorted[i - 1] < sorted[i];
    return count;
}

Positions positions_of(std::span<const std::span<const Cut>> windows, const Positions& chosen) {
    Positions positions(windows.size());
    for (size_t j = 0; j < windows.size(); ++j) positions[j] = windows[j][chosen[j]].position;
    return positions;
}

// The best partition of all whose cuts are among `cuts`, which begin and end with the ends of the
// sample.
Positions partition_all(std::span<const Cut> cuts, size_t clusters) {
    std::vector<std::span<const Cut>> windows{cuts.first(1)};
    for (size_t j = 1; j < clusters; ++j) {
        windows.push_back(cuts.subspan(j, cuts.size() - clusters));
    }
    windows.push_back(cuts.last(1));
    return positions_of(windows, best_partition(windows));
}

// About `cells` cuts for the first search. Atoms of equally many points (fewer and fewer towards
// both ends) are cut at their widest gap, so that lone points and clumps can be told apart. Of
// those cuts as many are kept as there are cells: half of them spread by count, half by count^(1/3)
// * width^(2/3), which is how the centroids of a fine quantizer lie (Panter and Dite 1951).
std::vector<Cut> coarse_cuts(const SortedSample& sample, size_t cells) {
    const auto values = sample.values();
    const size_t n = values.size(), atom = std::max<size_t>(1, n / kAtoms);
    Positions candidates{0};
    for (size_t first = 0; first < n;) {
        const size_t from_end = std::min(first, n - 1 - first);
        const size_t last = std::min(n, first + std::clamp<size_t>(from_end / 4, 1, atom));
        size_t widest = first;
        float width = 0;
        for (size_t i = std::max<size_t>(first, 1); i < last; ++i) {
            const float gap = values[i] - values[i - 1];
            if (gap > width) {
                width = gap;
                widest = i;
            }
        }
        if (width > 0) candidates.push_back(widest);
        first = last;
    }
    candidates.push_back(n);
    std::vector<double> spread{0};
    for (size_t i = 1; i < candidates.size(); ++i) {
        const size_t first = candidates[i - 1], last = candidates[i];
        const double width = static_cast<double>(values[std::min(last, n - 1)]) - values[first];
        spread.push_back(spread.back() +
                         std::cbrt(static_cast<double>(last - first) * width * width));
    }
    const double scale = spread.back() > 0 ? 0.5 / spread.back() : 0;
    std::vector<Cut> cuts{sample.cut(0)};
    double taken = 0;
    for (size_t i = 1; i + 1 < candidates.size(); ++i) {
        const double measure =
            static_cast<double>(candidates[i]) / static_cast<double>(n) * 0.5 + spread[i] * scale;
        if (measure * static_cast<double>(cells) < taken + 1) continue;
        taken = std::floor(measure * static_cast<double>(cells));
        cuts.push_back(sample.cut(candidates[i]));
    }
    cuts.push_back(sample.cut(n));
    return cuts;
}

double mean(const SortedSample& sample, const Cut& left, const Cut& right) noexcept {
    return sample.center() + (right.sum - left.sum) / (right.weight - left.weight);
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
            if (right.position > left.position) centroids[j] = mean(sample, left, right);
            left = right;
        }
    }
    return positions;
}

std::vector<double> means(const SortedSample& sample, const Positions& positions) {
    std::vector<double> centroids;
    for (size_t j = 0; j + 1 < positions.size(); ++j) {
        centroids.push_back(mean(sample, sample.cut(positions[j]), sample.cut(positions[j + 1])));
    }
    return centroids;
}

// The best partition whose cuts lie a multiple of `stride` points, at most kReach strides, from
// those of `positions`.
Positions partition_near(const SortedSample& sample, const Positions& positions, size_t stride) {
    std::vector<std::vector<Cut>> cuts;
    for (size_t j = 0; j < positions.size(); ++j) {
        const bool end = j == 0 || j + 1 == positions.size();
        const size_t at = positions[j];
        const size_t below = end ? 0 : std::min(kReach, at / stride);
        const size_t above = end ? 0 : std::min(kReach, (sample.size() - at) / stride);
        cuts.push_back(sample.cuts(at - below * stride, at + above * stride, stride));
    }
    const std::vector<std::span<const Cut>> windows(cuts.begin(), cuts.end());
    return positions_of(windows, best_partition(windows));
}

Positions exact(const SortedSample& sample, size_t clusters, size_t distinct) {
    if (distinct * clusters <= kExactWork) {
        return partition_all(sample.cuts(0, sample.size(), 1), clusters);
    }
    const auto coarse = coarse_cuts(sample, std::max(kCells, kCellsPerCluster * clusters));
    Positions best =
        lloyd(sample, means(sample, partition_all(coarse, clusters)), kLloydBeforeSearch);
    // The error has small dents all over, so wide windows with coarse strides come first.
    for (size_t stride = std::max<size_t>(1, std::bit_floor(sample.size() / kFirstStride));
         stride > 0; stride /= 4) {
        for (size_t i = 0; i < kRefinements; ++i) {
            const Positions next = partition_near(sample, best, stride);
            if (next == best) break;
            best = next;
        }
    }
    return best;
}

// splitmix64 (Steele, Lea and Flood 2014).
uint64_t next_random(uint64_t& state) noexcept {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

std::vector<double> initial(const SortedSample& sample, const Options& options, size_t clusters) {
    const auto values = sample.values();
    const size_t n = values.size();
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

void assign(std::span<const float> values, std::span<const float> firsts,
            std::span<uint8_t> codes) {
    constexpr size_t kFew = 32, kLanes = 16;
    size_t i = 0;
    if (firsts.size() <= kFew) {
        // Comparing with all of them has no branches and no gathers, and is done for many values at
        // once.
        for (; i + kLanes <= values.size(); i += kLanes) {
            std::array<float, kLanes> value;
            std::array<int32_t, kLanes> code{};
            std::copy_n(values.begin() + i, kLanes, value.begin());
            for (const float first : firsts) {
                for (size_t l = 0; l < kLanes; ++l) code[l] += value[l] >= first;
            }
            for (size_t l = 0; l < kLanes; ++l) codes[i + l] = static_cast<uint8_t>(code[l]);
        }
    }
    for (; i < values.size(); ++i) {
        const auto above = std::upper_bound(firsts.begin(), firsts.end(), values[i]);
        codes[i] = static_cast<uint8_t>(above - firsts.begin());
    }
}

}  // namespace

Result cluster(std::span<const float> values, std::span<const float> weights,
               const Options& options, std::span<uint8_t> codes) {
    const SortedSample sample(values, weights);
    const size_t distinct = distinct_values(sample.values());
    const size_t clusters = std::min(options.clusters, distinct);
    const Positions positions =
        options.init == Init::exact
            ? exact(sample, clusters, distinct)
            : lloyd(sample, initial(sample, options, clusters), options.iterations);
    Result result{{}, 0};
    std::vector<float> firsts;  // the smallest value of each cluster but the first
    for (size_t j = 0; j + 1 < positions.size(); ++j) {
        const size_t first = positions[j], last = positions[j + 1];
        if (first == last) continue;
        if (!result.centroids.empty()) firsts.push_back(sample.values()[first]);
        // Rounding must not carry a centroid out of its cluster: equal values are represented
        // exactly.
        const auto centroid = static_cast<float>(mean(sample, sample.cut(first), sample.cut(last)));
        result.centroids.push_back(
            std::clamp(centroid, sample.values()[first], sample.values()[last - 1]));
        result.sse += sample.squared_error(first, last, result.centroids.back());
    }
    assign(values, firsts, codes);
    return result;
}

}  // namespace tersor::kmeans
