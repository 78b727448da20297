// Squared error of weights on ranges of integer levels: the inner loop of every uniform fit.
#pragma once

#include <algorithm>
#include <cstddef>

namespace tersor {

// Levels low .. high (integers, below 2^22 in magnitude), w ~ step * level.
struct Levels {
    float step;
    float inverse;  // 1 / step, finite
    float low;
    float high;
    double error;  // sum of (w - step * level)^2, set by level_errors
};

// 1.5 * 2^23: adding and subtracting it rounds a float of magnitude <= 2^22 to the nearest integer,
// ties to even, with the same result from every instruction set.
constexpr float kRounder = 12582912.0f;

// The level nearest to `x` (a weight over its step; infinite is allowed, NaN is not).
inline float nearest_level(float x, float low, float high) {
    return (std::min(std::max(x, low), high) + kRounder) - kRounder;
}

// Sets the error of each of `count` candidates. Blocks of 4096 values are summed in 8 float32 lanes
// (value i goes to lane i mod 8); each block's lanes are added as a tree, in double, to the error.
// The order never changes, so neither do the bits.
void level_errors(const float* values, size_t size, Levels* candidates, size_t count);

}  // namespace tersor
