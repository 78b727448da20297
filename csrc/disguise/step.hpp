// The common step of a few numbers: the approximate greatest common divisor, by intervals.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace tersor::disguise {

// Multiples of more than this many steps are not looked for.
constexpr int kMostLevels = 255;

// A positive number known to lie in [low, high].
struct Measured {
    double low, high;
};

// All steps in [low, high] are possible.
struct Step {
    double low, high;
};

// The largest step of which every one of `numbers` (ascending) is 1 to kMostLevels times an
// integer, within what is known of it; the integers go to `levels`. Nothing if there is none. The
// method is Euclid's: the smallest number is the first guess, and a remainder becomes the next.
std::optional<Step> common_step(std::span<const Measured> numbers, std::span<int> levels) noexcept;

// The float32 in [low, high] whose significand ends in the most zero bits: where a step is known
// within an interval only, the simplest number is what a program would have used. NaN if there is
// none. 0 < low <= high.
float simplest_between(double low, double high) noexcept;

}  // namespace tersor::disguise
