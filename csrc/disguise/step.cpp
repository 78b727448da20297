#include "disguise/step.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace tersor::disguise {
namespace {

// Room for the rounding of the double arithmetic below.
constexpr double kWiden = 1e-13;
// Each round divides the guess by two or more, down to the largest number / kMostLevels.
constexpr int kMostRounds = 12;

// Intersects `step` with what one number says. False if no multiple fits; then `remainder` is
// what the nearest multiples leave of it.
bool narrow(Measured number, Step& step, int& level, Measured& remainder) noexcept {
    const double middle = (number.low + number.high) / 2;
    const double guess = (step.low + step.high) / 2;
    const double nearest = std::max(1.0, std::nearbyint(middle / guess));
    const double low = std::max(step.low, number.low / nearest * (1 - kWiden));
    const double high = std::min(step.high, number.high / nearest * (1 + kWiden));
    if (low <= high) {
        step = {low, high};
        level = static_cast<int>(nearest);
        return true;
    }
    const double under = nearest * step.low - number.high, over = number.low - nearest * step.high;
    remainder = over > 0 ? Measured{over, number.high - nearest * step.low}
                         : Measured{under, nearest * step.high - number.low};
    return false;
}

}  // namespace

std::optional<Step> common_step(std::span<const Measured> numbers, std::span<int> levels) noexcept {
    if (numbers.empty() || !(numbers.front().low > 0)) return std::nullopt;
    Measured guess = numbers.front();
    for (int round = 0; round < kMostRounds; ++round) {
        Step step{guess.low, guess.high};
        if (numbers.back().low > (kMostLevels + 0.5) * step.high) return std::nullopt;
        bool fits = true;
        for (size_t i = 0; i < numbers.size() && fits; ++i) {
            fits = narrow(numbers[i], step, levels[i], guess);
        }
        if (fits) {
            if (levels[numbers.size() - 1] > kMostLevels) return std::nullopt;
            return step;
        }
        if (!(guess.low > 0)) return std::nullopt;
    }
    return std::nullopt;
}

float simplest_between(double low, double high) noexcept {
    float first = static_cast<float>(low), last = static_cast<float>(high);
    const float infinity = std::numeric_limits<float>::infinity();
    if (first < low) first = std::nextafter(first, infinity);
    if (last > high) last = std::nextafter(last, 0.0f);
    if (!(first <= last) || !(last < infinity)) return std::numeric_limits<float>::quiet_NaN();
    // Positive floats are ordered as their bits.
    const uint32_t a = std::bit_cast<uint32_t>(first), b = std::bit_cast<uint32_t>(last);
    for (int drop = 23; drop > 0; --drop) {
        const uint32_t candidate = b >> drop << drop;
        if (candidate >= a && candidate > 0) return std::bit_cast<float>(candidate);
    }
    return last;
}

}  // namespace tersor::disguise
