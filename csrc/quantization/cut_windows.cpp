#include "quantization/cut_windows.hpp"

#include <algorithm>
#include <span>
#include <utility>

namespace tersor::kmeans {
namespace {

constexpr size_t kParts = 4;  // into which a group of cells is divided in each round
// At most so many cuts in all windows; wider ones are cut short and nothing is proven.
constexpr size_t kMostCuts = size_t{1} << 19;
// Rounding of a sum of gains, in relation to it.
constexpr double kRounding = 1e-13;

using Lists = std::vector<std::vector<Cut>>;

std::vector<std::span<const Cut>> spans(const Lists& lists) { return {lists.begin(), lists.end()}; }

// The cuts of a window, and between each two of them, if the values between them differ, the cut of
// the weight at the lowest from that at the highest value.
std::vector<Cut> spread(const Cells& cells, double center, const Window& window) {
    std::vector<Cut> cuts;
    for (size_t i = 0; i < window.size(); ++i) {
        const Cut left = cells.cuts[window[i]];
        cuts.push_back({left.weight, left.sum, 2 * left.position});
        if (i + 1 == window.size()) break;
        const Cut right = cells.cuts[window[i + 1]];
        const double low = cells.low[window[i]] - center;
        const double high = cells.high[window[i + 1] - 1] - center;
        const double weight = right.weight - left.weight, sum = right.sum - left.sum;
        const double share = high > low ? (high * weight - sum) / (high - low) : 0;
        const double below = std::clamp(share, 0.0, weight);
        cuts.push_back({left.weight + below, left.sum + below * low, 2 * left.position + 1});
    }
    return cuts;
}

// The same from right to left.
Lists mirrored(const Lists& lists) {
    Lists result;
    const size_t end = lists.back().front().position;
    for (auto list = lists.rbegin(); list != lists.rend(); ++list) {
        auto& cuts = result.emplace_back();
        for (auto cut = list->rbegin(); cut != list->rend(); ++cut) {
            cuts.push_back({-cut->weight, -cut->sum, end - cut->position});
        }
    }
    return result;
}

struct Feasible {
    std::vector<size_t> chosen;  // of each window
    double gain;
};

Feasible best_of(const Cells& cells, const std::vector<Window>& windows) {
    Lists cuts;
    for (const Window& window : windows) {
        auto& list = cuts.emplace_back();
        for (const size_t i : window) list.push_back(cells.cuts[i]);
    }
    Feasible result{best_partition(spans(cuts)), 0};
    for (size_t j = 1; j < cuts.size(); ++j) {
        result.gain += gain(cuts[j - 1][result.chosen[j - 1]], cuts[j][result.chosen[j]]);
    }
    return result;
}

// Leaves of each window what a partition of at least `least` gain may use, and `chosen`.
void rule_out(const Cells& cells, double center, std::vector<Window>& windows,
              const std::vector<size_t>& chosen, double least) {
    Lists cuts;
    for (const Window& window : windows) cuts.push_back(spread(cells, center, window));
    const auto left = best_gains(spans(cuts)), right = best_gains(spans(mirrored(cuts)));
    for (size_t j = 1; j + 1 < windows.size(); ++j) {
        const auto& before = left[j];
        const auto& after = right[windows.size() - 1 - j];
        size_t first = chosen[j], last = chosen[j];
        for (size_t i = 0; i < before.size(); ++i) {
            if (before[i] + after[before.size() - 1 - i] < least) continue;
            first = std::min(first, i / 2);
            last = std::max(last, (i + 1) / 2);
        }
        windows[j] = Window(windows[j].begin() + first, windows[j].begin() + last + 1);
    }
}

// Divides what lies between neighbours. Returns whether there was anything to divide.
bool divide(Window& window) {
    Window divided;
    for (size_t i = 0; i + 1 < window.size(); ++i) {
        const size_t length = window[i + 1] - window[i], parts = std::min(length, kParts);
        for (size_t part = 0; part < parts; ++part) {
            divided.push_back(window[i] + length * part / parts);
        }
    }
    divided.push_back(window.back());
    std::swap(window, divided);
    return window.size() > divided.size();
}

// Leaves `most` cuts around `center`. Returns whether that was all.
bool shorten(Window& window, size_t center, size_t most) {
    if (window.size() <= most) return true;
    const auto at = std::ranges::lower_bound(window, center) - window.begin();
    const size_t first =
        std::min(static_cast<size_t>(at) - std::min<size_t>(at, most / 2), window.size() - most);
    window = Window(window.begin() + first, window.begin() + first + most);
    return false;
}

}  // namespace

Narrowed narrow(const Cells& cells, double center, std::vector<Window>& windows) {
    bool proven = true;
    for (;;) {
        const Feasible best = best_of(cells, windows);
        Narrowed result{{}, proven};
        for (size_t j = 0; j < windows.size(); ++j) {
            result.best.push_back(windows[j][best.chosen[j]]);
        }
        rule_out(cells, center, windows, best.chosen, best.gain * (1 - kRounding));
        bool divided = false;
        for (Window& window : windows) divided |= divide(window);
        if (!divided) return result;
        for (size_t j = 0; j < windows.size(); ++j) {
            proven &= shorten(windows[j], result.best[j], kMostCuts / windows.size());
        }
    }
}

}  // namespace tersor::kmeans
