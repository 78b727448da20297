#include "quantization/assign_codes.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "cpu.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tersor::kmeans {
namespace {

// Errors are added up in so many sums, so that neither latency nor vectors matter: value i is part
// of sum i % kLanes.
constexpr size_t kLanes = 8;
using Errors = std::array<double, kLanes>;

// Up to so many, comparing with all of them is faster than a binary search.
constexpr size_t kFew = 32;

struct Codebook {
    std::span<const float> firsts, centroids;
};

void assign_scalar(std::span<const float> values, std::span<const float> weights,
                   const Codebook& book, std::span<uint8_t> codes, size_t from,
                   Errors& errors) noexcept {
    for (size_t i = from; i < values.size(); ++i) {
        const auto above = std::upper_bound(book.firsts.begin(), book.firsts.end(), values[i]);
        codes[i] = static_cast<uint8_t>(above - book.firsts.begin());
        const double weight = weights.empty() ? 1.0 : static_cast<double>(weights[i]);
        const double error = static_cast<double>(values[i]) - book.centroids[codes[i]];
        errors[i % kLanes] += weight * (error * error);
    }
}

#if defined(__x86_64__)

// Returns how many values it has done, a multiple of kLanes.
__attribute__((target("avx2"))) size_t assign_avx2(std::span<const float> values,
                                                   const Codebook& book, std::span<uint8_t> codes,
                                                   Errors& errors) noexcept {
    __m256d low_errors = _mm256_loadu_pd(errors.data());
    __m256d high_errors = _mm256_loadu_pd(errors.data() + 4);
    const __m256i low_bytes = _mm256_set1_epi32(0x0c080400);
    size_t i = 0;
    for (; i + kLanes <= values.size(); i += kLanes) {
        const __m256 value = _mm256_loadu_ps(&values[i]);
        __m256i code = _mm256_setzero_si256();
        for (const float first : book.firsts) {
            const __m256 reached = _mm256_cmp_ps(value, _mm256_set1_ps(first), _CMP_GE_OQ);
            code = _mm256_sub_epi32(code, _mm256_castps_si256(reached));
        }
        const __m256i bytes = _mm256_shuffle_epi8(code, low_bytes);
        const auto first_half = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 0));
        const auto second_half = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 4));
        _mm_storeu_si64(&codes[i], _mm_set_epi32(0, 0, static_cast<int>(second_half),
                                                 static_cast<int>(first_half)));
        const __m256 centroid = _mm256_i32gather_ps(book.centroids.data(), code, 4);
        const __m256d low = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(value)),
                                          _mm256_cvtps_pd(_mm256_castps256_ps128(centroid)));
        const __m256d high = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(value, 1)),
                                           _mm256_cvtps_pd(_mm256_extractf128_ps(centroid, 1)));
        low_errors = _mm256_add_pd(low_errors, _mm256_mul_pd(low, low));
        high_errors = _mm256_add_pd(high_errors, _mm256_mul_pd(high, high));
    }
    _mm256_storeu_pd(errors.data(), low_errors);
    _mm256_storeu_pd(errors.data() + 4, high_errors);
    return i;
}

#endif

}  // namespace

double assign_codes(std::span<const float> values, std::span<const float> weights,
                    std::span<const float> firsts, std::span<const float> centroids,
                    std::span<uint8_t> codes) noexcept {
    const Codebook book{firsts, centroids};
    Errors errors{};
    size_t done = 0;
#if defined(__x86_64__)
    if (active_isa() != Isa::scalar && weights.empty() && firsts.size() <= kFew) {
        done = assign_avx2(values, book, codes, errors);
    }
#endif
    assign_scalar(values, weights, book, codes, done, errors);
    return ((errors[0] + errors[1]) + (errors[2] + errors[3])) +
           ((errors[4] + errors[5]) + (errors[6] + errors[7]));
}

}  // namespace tersor::kmeans
