#include "quantization/exact_partition.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "quantization/cell_table.hpp"
#include "quantization/cut_windows.hpp"
#include "quantization/distinct_values.hpp"
#include "quantization/sorted_sample.hpp"

namespace tersor::kmeans {
namespace {

// Up to so many distinct values times clusters, all partitions are searched at once.
constexpr size_t kExactWork = size_t{1} << 19;
constexpr size_t kCoarse = 256, kCoarsePerCluster = 16;
constexpr size_t kStride = 16;      // points of a cell before single points are looked at
constexpr size_t kFirstParts = 64;  // of a window when its points are known

// The best partition of all whose cuts are among `cuts`, which begin and end with the ends of the
// sample.
std::vector<size_t> partition_all(std::span<const Cut> cuts, size_t clusters) {
    std::vector<std::span<const Cut>> windows{cuts.first(1)};
    for (size_t j = 1; j < clusters; ++j) {
        windows.push_back(cuts.subspan(j, cuts.size() - clusters));
    }
    windows.push_back(cuts.last(1));
    std::vector<size_t> chosen = best_partition(windows);
    for (size_t j = 1; j < clusters; ++j) chosen[j] += j;
    chosen.back() = cuts.size() - 1;
    return chosen;
}

Partition partition_distinct(const DistinctValues& distinct, size_t clusters) {
    const auto& [values, weights] = distinct;
    const double center = values[values.size() / 2];
    std::vector<Cut> cuts{{0, 0, 0}};
    for (size_t i = 0; i < values.size(); ++i) {
        const Cut& left = cuts.back();
        cuts.push_back(
            {left.weight + weights[i], left.sum + weights[i] * (values[i] - center), i + 1});
    }
    Partition result{center, {}, {}, {}, true};
    for (const size_t i : partition_all(cuts, std::min(clusters, values.size()))) {
        result.cuts.push_back(cuts[i]);
        if (i < values.size()) result.firsts.push_back(values[i]);
        if (i > 0) result.lasts.push_back(values[i - 1]);
    }
    return result;
}

// Roughly the cube root, the same everywhere: a third of the exponent.
double cube_root(double value) noexcept {
    constexpr uint32_t two_thirds_of_one = 0x2A555556u;  // of the bits of 1
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    return std::bit_cast<float>(bits / 3 + two_thirds_of_one);
}

// About `count` of the cuts for the first search, half of them spread by points, half by
// points^(1/3)
// * width^(2/3), which is how the centroids of a fine quantizer lie (Panter and Dite 1951).
Window coarse_window(const Cells& cells, size_t count) {
    std::vector<double> spread{0};
    for (size_t i = 0; i < cells.low.size(); ++i) {
        const float begin = i == 0 ? cells.low[0] : cells.high[i - 1];
        const double width = static_cast<double>(cells.high[i]) - begin;
        const size_t points = cells.cuts[i + 1].position - cells.cuts[i].position;
        spread.push_back(spread.back() + cube_root(static_cast<double>(points) * width * width));
    }
    const auto scale = static_cast<double>(count) / 2;
    const double by_points = scale / static_cast<double>(cells.cuts.back().position);
    const double by_spread = scale / spread.back();
    Window coarse{0};
    double taken = 0;
    for (size_t i = 1; i < cells.low.size(); ++i) {
        const double measure =
            static_cast<double>(cells.cuts[i].position) * by_points + spread[i] * by_spread;
        if (measure < taken + 1) continue;
        taken = std::floor(measure);
        coarse.push_back(i);
    }
    coarse.push_back(cells.low.size());
    return coarse;
}

size_t index_of(const Cells& cells, const Cut& cut) {
    const auto at = std::ranges::lower_bound(cells.cuts, cut.position, {}, &Cut::position);
    return static_cast<size_t>(at - cells.cuts.begin());
}

// Cells of at least `stride` points of the runs; equal values share a cell. What lies between two
// runs is one cell that no window reaches into. Cuts of `outer` in the runs, and at their ends,
// stay.
Cells cells_of(const SortedSample& sample, std::span<const Run> runs, const Cells& outer,
               size_t stride) {
    Cells cells;
    const auto sorted = sample.values();
    for (const Run& run : runs) {
        // All that is known of the nearest values in the cell between.
        if (!cells.cuts.empty()) {
            cells.low.push_back(outer.low[index_of(outer, cells.cuts.back())]);
            cells.high.push_back(outer.high[index_of(outer, run.start) - 1]);
        }
        Cut cut = run.start;
        cells.cuts.push_back(cut);
        size_t next = index_of(outer, run.start), end = run.first;
        for (size_t first = run.first, last; first < run.last; first = last) {
            if (first == end) end = run.first + (outer.cuts[++next].position - run.start.position);
            last = std::min(first + stride, end);
            while (last < end && sorted[last] == sorted[last - 1]) ++last;
            const Cut inside = sample.sums(first, last);
            cut = {cut.weight + inside.weight, cut.sum + inside.sum, cut.position + last - first};
            cells.cuts.push_back(cut);
            cells.low.push_back(sorted[first]);
            cells.high.push_back(sorted[last - 1]);
        }
    }
    return cells;
}

// The parts of `runs` that the windows take up; a window of one cut takes up an empty one.
std::vector<Run> parts_of(std::span<const Run> runs, std::span<const Window> windows,
                          const Cells& cells) {
    std::vector<Run> parts;
    size_t reached = 0;
    for (const Window& window : windows) {
        const Cut &start = cells.cuts[window.front()], &end = cells.cuts[window.back()];
        const auto start_of = [](const Run& run) { return run.start.position; };
        const Run& run = *(std::ranges::upper_bound(runs, start.position, {}, start_of) - 1);
        const size_t to_index = run.first - run.start.position;
        if (parts.empty() || start.position > reached) {
            parts.push_back({start, start.position + to_index, end.position + to_index});
        }
        reached = std::max(reached, end.position);
        parts.back().last = reached + to_index;
    }
    return parts;
}

// Windows of cuts of `from` as windows of cuts of `to`, which holds the same and more. Where
// windows overlap they hold the same cuts.
void refine(std::vector<Window>& windows, const Cells& from, const Cells& to) {
    std::vector<size_t> cuts;
    for (Window& window : windows) {
        window = {index_of(to, from.cuts[window.front()]), index_of(to, from.cuts[window.back()])};
        cuts.insert(cuts.end(), window.begin(), window.end());
    }
    const size_t stride = to.low.size() / (kFirstParts * windows.size()) + 1;
    for (size_t i = 0; i < to.low.size(); i += stride) cuts.push_back(i);
    std::ranges::sort(cuts);
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (Window& window : windows) {
        window = Window(std::ranges::lower_bound(cuts, window.front()),
                        std::ranges::upper_bound(cuts, window.back()));
    }
}

Partition partition_cells(const CellTable& table, size_t clusters) {
    const Cells& all = table.cells();
    const size_t end = all.low.size();
    std::vector<Window> windows(
        clusters + 1, coarse_window(all, std::max(kCoarse, kCoarsePerCluster * clusters)));
    windows.front() = {0};
    windows.back() = {end};
    bool proven = narrow(all, table.center(), windows).proven;
    std::vector<CellRange> ranges;
    for (const Window& window : windows) {
        // The cell after a single cut is there so that the cut is.
        ranges.push_back(
            {window.front(), std::min(end, std::max(window.back(), window.front() + 1))});
    }
    ranges.back().first = end - 1;
    const auto [sample, runs] = table.points(ranges);
    const Cells some = cells_of(sample, runs, all, kStride);
    refine(windows, all, some);
    proven &= narrow(some, table.center(), windows).proven;
    const Cells near = cells_of(sample, parts_of(runs, windows, some), some, 1);
    refine(windows, some, near);
    const Narrowed last = narrow(near, table.center(), windows);
    Partition result{table.center(), {}, {}, {}, proven && last.proven};
    for (const size_t i : last.best) {
        result.cuts.push_back(near.cuts[i]);
        if (i < near.low.size()) result.firsts.push_back(near.low[i]);
        if (i > 0) result.lasts.push_back(near.high[i - 1]);
    }
    return result;
}

}  // namespace

Partition exact_partition(std::span<const float> values, std::span<const float> weights,
                          size_t clusters) {
    if (const auto distinct = distinct_values(values, weights, kExactWork / clusters)) {
        return partition_distinct(*distinct, clusters);
    }
    return partition_cells(CellTable(values, weights), clusters);
}

}  // namespace tersor::kmeans
