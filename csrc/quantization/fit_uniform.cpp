// The search: a geometric sweep of steps downwards from the one that clips nothing, ended by a
// bound, then finer and finer sweeps around the best. Every candidate is rounded before it is
// judged, so rounding costs nothing twice.
#include "quantization/fit_uniform.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quantization/level_errors.hpp"

namespace tersor {
namespace {

constexpr double kSweepRatio = 0.957603280698573647;  // 2^(-1/16)
// The error of a few weights jumps up and down with the step, so every bfloat16 step is tried,
// larger ones too.
constexpr size_t kTinyGroup = 32;
constexpr double kTinySweepRatio = 0.99459942348363317;  // 2^(-1/128)
constexpr double kTinyTop = 1.25;
constexpr int kSweepBatch = 4;  // steps judged in one pass over the group
constexpr int kMaxStarts = 5;
constexpr int kFewBits = 4;  // up to here an affine range is tried in more places
constexpr size_t kGridWeights = 8;
constexpr int kGridGain = 4;
constexpr int kGridRounds = 2;
constexpr double kGridError =
    0.06;  // squared steps a weight; 1/12 is the error of weights on no grid
// Ratios of the finer sweeps: 2^(1/64), 2^(1/256), ... 2^(1/16384).
constexpr double kFineRatios[] = {1.01088928605170047, 1.00271127505020249, 1.00067713069306641,
                                  1.00016923970530222, 1.00004230724139582};
// Levels stay below 2^21 in magnitude, so that float32 arithmetic on them is exact and rounding by
// the addition of a constant (level_errors.hpp) is valid.
constexpr double kLevelLimit = 1 << 20;

struct Range {
    float low = 0.0f;
    float high = 0.0f;
};

struct Spec {
    int bits;
    GridKind kind;
    int step_bits;
    double span() const { return std::ldexp(1.0, bits) - 1.0; }  // top level minus bottom level
    double half() const { return std::ldexp(1.0, bits - 1); }
};

// The kept values of one group, times 2^-exponent, and what the search knows of them.
struct Group {
    const float* values;
    size_t count;
    int exponent;
    Range range;
    double floor;  // no step is smaller
};

Range find_range(const float* values, size_t count) {
    Range range;
    if (count) range = {values[0], values[0]};
    for (size_t i = 0; i < count; ++i) {
        range.low = std::min(range.low, values[i]);
        range.high = std::max(range.high, values[i]);
    }
    return range;
}

double magnitude(const Range& range) {
    return std::max(std::abs(double{range.low}), std::abs(double{range.high}));
}

// The integer nearest to `x`, ties to even; |x| < 2^51.
double nearest_integer(double x) {
    constexpr double rounder = 0x1.8p52;
    return (x + rounder) - rounder;
}

// `step` > 0 rounded to the precision asked for (nearest, or upwards), and to what float32 can hold
// once it is scaled back. The mantissa's lowest bits are rounded off as an integer.
float rounded_step(double step, const Group& group, const Spec& spec, bool up = false) {
    const int drop = 53 - spec.step_bits;
    const uint64_t tail = (uint64_t{1} << drop) - 1;
    uint64_t raw = std::bit_cast<uint64_t>(step);
    raw += up ? tail : (tail >> 1) + (raw >> drop & 1);
    const double rounded = std::bit_cast<double>(raw & ~tail);
    if (group.exponent == 0) return static_cast<float>(rounded);
    const double largest = std::ldexp(2.0 - std::ldexp(2.0, -spec.step_bits), 127);
    float whole = static_cast<float>(std::min(std::ldexp(rounded, group.exponent), largest));
    if (whole == 0.0f) whole = std::numeric_limits<float>::denorm_min();
    return static_cast<float>(std::ldexp(double{whole}, -group.exponent));
}

Levels levels_from(float step, double low, const Spec& spec) {
    Levels levels;
    levels.step = step;
    levels.inverse = 1.0f / step;
    levels.low = static_cast<float>(std::clamp(low, -kLevelLimit, kLevelLimit));
    levels.high = levels.low + static_cast<float>(spec.span());
    return levels;
}

// The ranges of levels worth trying with `step`; the same number of them for every step.
int starts(float step, const Group& group, const Spec& spec, Levels* out) {
    if (spec.kind == GridKind::positive) {
        out[0] = levels_from(step, -spec.half(), spec);
        return 1;
    }
    if (spec.kind == GridKind::symmetric) {
        out[0] = levels_from(step, -spec.half(), spec);
        out[1] = levels_from(step, 1.0 - spec.half(), spec);
        return 2;
    }
    const double low = double{group.range.low} / step;
    const double slack = double{group.range.high} / step - spec.span() - low;
    const int count = spec.bits <= kFewBits ? kMaxStarts : 3;
    for (int i = 0; i < count; ++i) {
        out[i] = levels_from(step, nearest_integer(low + slack * i / (count - 1)), spec);
    }
    return count;
}

void keep_better(Levels& best, const Levels& other) {
    if (other.error < best.error) best = other;
}

// Sweeps steps downwards from `top`; `best` gets the best levels of each start.
void sweep(const Group& group, const Spec& spec, double top, Levels* best) {
    const bool tiny = group.count < kTinyGroup;
    const double ratio = spec.step_bits == 1 ? 0.5 : tiny ? kTinySweepRatio : kSweepRatio;
    double step = tiny && spec.step_bits > 1 ? top * kTinyTop : top;
    if (spec.step_bits == 1) step = rounded_step(step, group, spec, true);
    bool first = true;
    for (bool more = true; more;) {
        Levels batch[kSweepBatch * kMaxStarts];
        int count = 0;
        int width = 0;
        for (int i = 0; i < kSweepBatch && step >= group.floor; ++i) {
            width = starts(rounded_step(step, group, spec, first), group, spec, batch + count);
            count += width;
            first = false;
            step *= ratio;
        }
        if (!count) return;
        level_errors(group.values, group.count, batch, static_cast<size_t>(count));
        for (int i = 0; i < count; ++i) keep_better(best[i % width], batch[i]);
        // Of a smaller step at least the clipped part of this error remains; what is not clipped is
        // at most half a step off. Once that remainder exceeds the best error there is nothing left
        // to find below.
        double best_error = best[0].error;
        for (int i = 1; i < width; ++i) best_error = std::min(best_error, best[i].error);
        more = false;
        for (int i = count - width; i < count; ++i) {
            const double half_step = 0.5 * batch[i].step;
            const double unclipped = half_step * half_step * static_cast<double>(group.count);
            if (batch[i].error - unclipped <= best_error) more = true;
        }
    }
}

// Levels for another step that cover the same stretch of weights as `levels` do.
Levels restep(const Levels& levels, float step, const Spec& spec) {
    if (spec.kind != GridKind::affine) return levels_from(step, levels.low, spec);
    const double centre = (levels.low + 0.5 * spec.span()) * levels.step / step;
    return levels_from(step, nearest_integer(centre - 0.5 * spec.span()), spec);
}

void refine(const Group& group, const Spec& spec, Levels& best) {
    for (const double ratio : kFineRatios) {
        if (ratio - 1.0 < std::ldexp(0.5, -spec.step_bits) || spec.step_bits == 1) break;
        const Levels around = best;
        const double step = around.step;
        const double steps[] = {step * ratio, step * ratio * ratio, step * ratio * ratio * ratio,
                                step / ratio, step / ratio / ratio, step / ratio / ratio / ratio};
        Levels batch[std::size(steps)];
        size_t count = 0;
        for (const double s : steps) {
            if (s >= group.floor)
                batch[count++] = restep(around, rounded_step(s, group, spec), spec);
        }
        level_errors(group.values, group.count, batch, count);
        for (size_t i = 0; i < count; ++i) keep_better(best, batch[i]);
    }
    if (spec.kind != GridKind::affine) return;
    for (double shift = std::max(1.0, (spec.span() + 1.0) / 16.0); shift >= 1.0; shift /= 2.0) {
        Levels batch[] = {levels_from(best.step, best.low - shift, spec),
                          levels_from(best.step, best.low + shift, spec)};
        level_errors(group.values, group.count, batch, std::size(batch));
        for (const Levels& levels : batch) keep_better(best, levels);
    }
}

// The step of least squared error for the levels that the weights take now: <w, k> / <k, k>; 0 if
// all k are 0. Both sums run in 4 lanes of double (value i in lane i mod 4).
double least_squares_step(const Group& group, const Levels& levels) {
    double products[4] = {};
    double squares[4] = {};
    for (size_t i = 0; i < group.count; ++i) {
        const float w = group.values[i];
        const double k = nearest_level(w * levels.inverse, levels.low, levels.high);
        products[i % 4] += double{w} * k;
        squares[i % 4] += k * k;
    }
    const double square = (squares[0] + squares[2]) + (squares[1] + squares[3]);
    return square > 0.0 ? ((products[0] + products[2]) + (products[1] + products[3])) / square
                        : 0.0;
}

// Weights that lie on a grid already, as quantization-aware training leaves them, get its step in
// full precision: two more bytes for a group, against at least kGridGain bits of precision a
// weight.
void meet_grid(const Group& group, const Spec& spec, Levels& best) {
    if (group.count < kGridWeights || spec.step_bits == 1) return;
    const double step = best.step;
    if (best.error > kGridError * step * step * static_cast<double>(group.count)) return;
    const Spec precise{spec.bits, spec.kind, 24};
    Levels levels = best;
    for (int i = 0; i < kGridRounds; ++i) {
        const double finer = least_squares_step(group, levels);
        if (finer < group.floor) return;
        levels = restep(levels, rounded_step(finer, group, precise), spec);
        level_errors(group.values, group.count, &levels, 1);
    }
    if (levels.error < std::ldexp(best.error, -2 * kGridGain)) best = levels;
}

Levels fit_group(const Group& group, const Spec& spec) {
    const double largest = magnitude(group.range);
    double top = largest / std::max(spec.half() - 1.0, 1.0);
    if (spec.kind == GridKind::affine) {
        top = (double{group.range.high} - double{group.range.low}) / spec.span();
    }
    Levels best[kMaxStarts];
    for (Levels& levels : best) levels.error = std::numeric_limits<double>::infinity();
    sweep(group, spec, std::max(top, group.floor), best);
    if (spec.kind == GridKind::symmetric) {  // the longer tail just fits the longer side
        Levels fits[2];
        starts(rounded_step(largest / spec.half(), group, spec, true), group, spec, fits);
        level_errors(group.values, group.count, fits, 2);
        for (int i = 0; i < 2; ++i) keep_better(best[i], fits[i]);
    }
    for (Levels& levels : best) {
        if (std::isfinite(levels.error)) refine(group, spec, levels);
    }
    Levels& winner =
        *std::min_element(std::begin(best), std::end(best),
                          [](const Levels& a, const Levels& b) { return a.error < b.error; });
    meet_grid(group, spec, winner);
    return winner;
}

// The kept values of the group that starts at `start`; `scratch` holds them if they had to be moved
// or scaled.
Group gather(const GroupedRows& weight, size_t start, size_t count, std::vector<float>& scratch) {
    Group group{weight.values + start, count, 0, {}, 0.0};
    if (weight.kept) {
        scratch.resize(count);
        group.count = 0;
        for (size_t i = start; i < start + count; ++i) {
            scratch[group.count] = weight.values[i];
            group.count += weight.kept[i] ? 1 : 0;
        }
        scratch.resize(group.count);
        group.values = scratch.data();
    }
    group.range = find_range(group.values, group.count);
    // Far from one, a step or its inverse could leave float32's range; a power of two brings it
    // back, exactly.
    const double largest = magnitude(group.range);
    if (largest > 0.0 && (largest < 0x1p-60 || largest > 0x1p60)) {
        std::frexp(largest, &group.exponent);
        if (!weight.kept) scratch.assign(group.values, group.values + group.count);
        for (float& value : scratch) {
            value = static_cast<float>(std::ldexp(double{value}, -group.exponent));
        }
        group.values = scratch.data();
        group.range = find_range(group.values, group.count);
    }
    group.floor = magnitude(group.range) / kLevelLimit;
    return group;
}

}  // namespace

void fit_uniform(const GroupedRows& weight, int bits, GridKind kind, int step_bits, float* scale,
                 int32_t* zero) {
    const Spec spec{bits, kind, step_bits};
    std::vector<float> scratch;
    const size_t groups = weight.groups();
    for (size_t row = 0; row < weight.rows; ++row) {
        for (size_t g = 0; g < groups; ++g) {
            const size_t start = g * weight.group;
            const size_t count = std::min(weight.group, weight.length - start);
            const Group group = gather(weight, row * weight.length + start, count, scratch);
            const size_t at = row * groups + g;
            scale[at] = 1.0f;
            if (kind == GridKind::affine) zero[at] = 0;
            if (magnitude(group.range) == 0.0) continue;
            const Levels levels = fit_group(group, spec);
            scale[at] = static_cast<float>(std::ldexp(double{levels.step}, group.exponent));
            if (kind == GridKind::symmetric && levels.low != -spec.half()) scale[at] = -scale[at];
            if (kind == GridKind::affine) {
                zero[at] = static_cast<int32_t>(-spec.half() - double{levels.low});
            }
        }
    }
}

template <class Code>
void uniform_codes(const GroupedRows& weight, int bits, const float* scale, const int32_t* zero,
                   Code* codes) {
    const float bottom = static_cast<float>(-std::ldexp(1.0, bits - 1));
    const float top = -bottom - 1.0f;
    const size_t groups = weight.groups();
    for (size_t row = 0; row < weight.rows; ++row) {
        for (size_t g = 0; g < groups; ++g) {
            const size_t start = row * weight.length + g * weight.group;
            const size_t count = std::min(weight.group, weight.length - g * weight.group);
            const float step = scale[row * groups + g];
            const int32_t shift = zero ? zero[row * groups + g] : 0;
            const float low = bottom - static_cast<float>(shift);
            const float high = top - static_cast<float>(shift);
            for (size_t i = start; i < start + count; ++i) {
                const float level = nearest_level(weight.values[i] / step, low, high);
                codes[i] = static_cast<Code>(static_cast<int32_t>(level) + shift);
            }
        }
    }
    if (!weight.kept) return;
    for (size_t i = 0; i < weight.rows * weight.length; ++i) {
        if (!weight.kept[i]) codes[i] = 0;
    }
}

template void uniform_codes(const GroupedRows&, int, const float*, const int32_t*, int8_t*);
template void uniform_codes(const GroupedRows&, int, const float*, const int32_t*, int16_t*);

}  // namespace tersor
