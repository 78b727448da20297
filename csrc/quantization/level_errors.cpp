#include "quantization/level_errors.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "cpu.hpp"

namespace tersor {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBlock = 4096;

// The sum of the lanes, always as the same tree.
inline double sum_lanes(const float* lanes) {
    double halves[4];
    for (size_t j = 0; j < 4; ++j) halves[j] = double{lanes[j]} + double{lanes[j + 4]};
    return (halves[0] + halves[2]) + (halves[1] + halves[3]);
}

// Adds the squared errors of values[begin, size) to the lanes, in units of the step.
inline void add_errors(const float* values, size_t begin, size_t size, const Levels& levels,
                       float* lanes) {
    for (size_t i = begin; i < size; ++i) {
        const float x = values[i] * levels.inverse;
        const float e = x - nearest_level(x, levels.low, levels.high);
        lanes[i % kLanes] += e * e;
    }
}

// Adds to each candidate's error that of one block, in units of the step.
void block_scalar(const float* values, size_t size, Levels* candidates, size_t count) {
    for (size_t c = 0; c < count; ++c) {
        float lanes[kLanes] = {};
        add_errors(values, 0, size, candidates[c], lanes);
        candidates[c].error += sum_lanes(lanes);
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) void block_avx2(const float* values, size_t size,
                                                Levels* candidates, size_t count) {
    const __m256 rounder = _mm256_set1_ps(kRounder);
    const size_t whole = size / kLanes * kLanes;
    for (size_t c = 0; c < count; ++c) {
        const __m256 inverse = _mm256_set1_ps(candidates[c].inverse);
        const __m256 low = _mm256_set1_ps(candidates[c].low);
        const __m256 high = _mm256_set1_ps(candidates[c].high);
        __m256 sum = _mm256_setzero_ps();
        for (size_t i = 0; i < whole; i += kLanes) {
            const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(values + i), inverse);
            const __m256 clipped = _mm256_min_ps(_mm256_max_ps(x, low), high);
            const __m256 level = _mm256_sub_ps(_mm256_add_ps(clipped, rounder), rounder);
            const __m256 e = _mm256_sub_ps(x, level);
            sum = _mm256_add_ps(sum, _mm256_mul_ps(e, e));
        }
        float lanes[kLanes];
        _mm256_storeu_ps(lanes, sum);
        add_errors(values, whole, size, candidates[c], lanes);
        candidates[c].error += sum_lanes(lanes);
    }
}
#endif

using BlockErrors = void (*)(const float*, size_t, Levels*, size_t);

BlockErrors block_errors() {
#if defined(__x86_64__) && defined(__GNUC__)
    if (active_isa() >= Isa::avx2) return block_avx2;
#endif
    return block_scalar;
}

}  // namespace

void level_errors(const float* values, size_t size, Levels* candidates, size_t count) {
    const BlockErrors add_block = block_errors();
    for (size_t c = 0; c < count; ++c) candidates[c].error = 0.0;
    for (size_t start = 0; start < size; start += kBlock) {
        add_block(values + start, std::min(kBlock, size - start), candidates, count);
    }
    for (size_t c = 0; c < count; ++c) {
        candidates[c].error *= double{candidates[c].step} * double{candidates[c].step};
    }
}

}  // namespace tersor
