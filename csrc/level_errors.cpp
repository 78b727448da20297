#include "level_errors.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "cpu.hpp"

namespace tersor {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBlock = 4096;

// Adds the squared errors of values[begin, size) to the lanes, in units of the step.
void add_scalar(const float* values, size_t begin, size_t size, const Levels& levels,
                float* lanes) {
    for (size_t i = begin; i < size; ++i) {
        const float x = values[i] * levels.inverse;
        const float e = x - nearest_level(x, levels.low, levels.high);
        lanes[i % kLanes] += e * e;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) void add_avx2(const float* values, size_t size,
                                              const Levels& levels, float* lanes) {
    const __m256 inverse = _mm256_set1_ps(levels.inverse);
    const __m256 low = _mm256_set1_ps(levels.low);
    const __m256 high = _mm256_set1_ps(levels.high);
    const __m256 rounder = _mm256_set1_ps(kRounder);
    __m256 sum = _mm256_loadu_ps(lanes);
    size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(values + i), inverse);
        const __m256 clipped = _mm256_min_ps(_mm256_max_ps(x, low), high);
        const __m256 level = _mm256_sub_ps(_mm256_add_ps(clipped, rounder), rounder);
        const __m256 e = _mm256_sub_ps(x, level);
        sum = _mm256_add_ps(sum, _mm256_mul_ps(e, e));
    }
    _mm256_storeu_ps(lanes, sum);
    add_scalar(values, i, size, levels, lanes);
}
#endif

void add_block(const float* values, size_t size, const Levels& levels, float* lanes) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (active_isa() >= Isa::avx2) return add_avx2(values, size, levels, lanes);
#endif
    add_scalar(values, 0, size, levels, lanes);
}

}  // namespace

void level_errors(const float* values, size_t size, Levels* candidates, size_t count) {
    for (size_t c = 0; c < count; ++c) candidates[c].error = 0.0;
    for (size_t start = 0; start < size; start += kBlock) {
        for (size_t c = 0; c < count; ++c) {
            float lanes[kLanes] = {};
            add_block(values + start, std::min(kBlock, size - start), candidates[c], lanes);
            for (const float lane : lanes) candidates[c].error += double{lane};
        }
    }
    for (size_t c = 0; c < count; ++c) {
        candidates[c].error *= double{candidates[c].step} * double{candidates[c].step};
    }
}

}  // namespace tersor
