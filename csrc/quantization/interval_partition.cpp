#include "quantization/interval_partition.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace tersor::kmeans {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

// One step of the recursion: the best gains up to each cut of a window from those of the window
// before.
struct Step {
    std::span<const Cut> before, here;
    std::span<const double> best_before;
    std::span<double> best;
    std::span<uint32_t> choice;
    bool empty;  // whether intervals may be empty

    // Cuts [first, last) of `here`; the best choice before lies in [low, high].
    void solve(size_t first, size_t last, size_t low, size_t high) const noexcept {
        while (first < last) {
            const size_t middle = first + (last - first) / 2;
            const Cut cut = here[middle];
            const size_t end = cut.position + (empty ? 1 : 0);
            double top = kImpossible;
            size_t argument = low;
            for (size_t i = low; i <= high && before[i].position < end; ++i) {
                const double value = best_before[i] + gain(before[i], cut);
                if (value > top) {
                    top = value;
                    argument = i;
                }
            }
            best[middle] = top;
            choice[middle] = static_cast<uint32_t>(argument);
            solve(first, middle, low, argument);
            first = middle + 1;
            // A cut that nothing reaches says nothing about the choices of later ones.
            low = argument;
        }
    }
};

struct Search {
    std::vector<std::vector<double>> gains;
    std::vector<std::vector<uint32_t>> choices;
};

Search search(CutWindows windows, bool empty) {
    Search result{{{0.0}}, {{}}};
    for (size_t j = 1; j < windows.size(); ++j) {
        const size_t size = windows[j].size();
        result.gains.emplace_back(size, kImpossible);
        result.choices.emplace_back(size);
        Step{windows[j - 1],        windows[j], result.gains[j - 1], result.gains.back(),
             result.choices.back(), empty}
            .solve(0, size, 0, windows[j - 1].size() - 1);
    }
    return result;
}

}  // namespace

std::vector<size_t> best_partition(CutWindows windows) {
    const auto choices = search(windows, false).choices;
    std::vector<size_t> cuts(windows.size(), 0);
    for (size_t j = windows.size() - 1; j > 0; --j) cuts[j - 1] = choices[j][cuts[j]];
    return cuts;
}

std::vector<std::vector<double>> best_gains(CutWindows windows) {
    return search(windows, true).gains;
}

}  // namespace tersor::kmeans
