// Steps of uniform grids that minimise the squared error, and the codes on those grids.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor {

// Which integers the 2^bits levels of a group may be, for weights w ~ step * level, step > 0.
enum class GridKind {
    symmetric,  // -2^(bits-1) .. 2^(bits-1)-1, or its mirror image (told by a negative scale)
    affine,     // any 2^bits consecutive integers (told by the zero point)
    positive,   // -2^(bits-1) .. 2^(bits-1)-1 only
};

// A weight as rows of `length` values, in groups of `group` values of a row (the last may be
// shorter).
struct GroupedRows {
    const float* values;  // rows * length, all finite
    const uint8_t* kept;  // rows * length, 0 where a weight is pruned; or null
    size_t rows;
    size_t length;
    size_t group;  // >= 1

    size_t groups() const { return (length + group - 1) / group; }
};

// Fits every group: `scale` (rows, groups) gets the step, rounded to `step_bits` significant bits
// (1: a power of two) unless the weights lie on a finer grid already, and `zero` (same shape; used
// by the affine grid only) the zero point: w ~ scale * (code - zero). Groups that hold nothing but
// zeros get the step 1. The result does not depend on the instruction set.
void fit_uniform(const GroupedRows& weight, int bits, GridKind kind, int step_bits, float* scale,
                 int32_t* zero);

// codes = clamp(round(w / scale) + zero) in [-2^(bits-1), 2^(bits-1) - 1], ties to even; 0 where
// pruned. `zero` may be null. Code is int8_t or int16_t.
template <class Code>
void uniform_codes(const GroupedRows& weight, int bits, const float* scale, const int32_t* zero,
                   Code* codes);

}  // namespace tersor
