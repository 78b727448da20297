#include "interval_partition.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace tersor::kmeans {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

// What an interval takes off the sum of squares.
inline double gain(const Cut& left, const Cut& right) noexcept {
    const double weight = right.weight - left.weight;
    const double sum = right.sum - left.sum;
    return weight > 0 ? sum * sum / weight : kImpossible;
}

// One step of the recursion: the best gains up to each cut of a window from those of the window
// before.
struct Step {
    std::span<const Cut> before, here;
    std::span<const double> best_before;
    std::span<double> best;
    std::span<uint32_t> choice;

    // Cuts [first, last) of `here`; the best choice before lies in [low, high].
    void solve(size_t first, size_t last, size_t low, size_t high) const noexcept {
        while (first < last) {
            const size_t middle = first + (last - first) / 2;
            const Cut cut = here[middle];
            double top = kImpossible;
            size_t argument = low;
            for (size_t i = low; i <= high && before[i].position < cut.position; ++i) {
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

}  // namespace

std::vector<size_t> best_partition(std::span<const std::span<const Cut>> windows) {
    std::vector<std::vector<uint32_t>> choices(windows.size());
    std::vector<double> before(1, 0.0), here;
    for (size_t j = 1; j < windows.size(); ++j) {
        here.assign(windows[j].size(), kImpossible);
        choices[j].resize(windows[j].size());
        Step{windows[j - 1], windows[j], before, here, choices[j]}.solve(0, windows[j].size(), 0,
                                                                         windows[j - 1].size() - 1);
        before.swap(here);
    }
    std::vector<size_t> cuts(windows.size(), 0);
    for (size_t j = windows.size() - 1; j > 0; --j) cuts[j - 1] = choices[j][cuts[j]];
    return cuts;
}

}  // namespace tersor::kmeans
