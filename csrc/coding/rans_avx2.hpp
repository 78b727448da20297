// Eight lanes of interleaved rANS in a vector of AVX2: what decoders of every table layout share.
#pragma once

#include <cstdint>

#include "coding/avx2.hpp"
#include "coding/rans_state.hpp"

#if defined(TERSOR_AVX2)

namespace tersor {

// For a mask of lanes that need a word: which of the next eight words each lane gets.
struct ExpandTable {
    alignas(32) std::uint32_t lanes[256][8];
    constexpr ExpandTable() : lanes{} {
        for (unsigned mask = 0; mask < 256; ++mask) {
            unsigned word = 0;
            for (unsigned lane = 0; lane < 8; ++lane) {
                lanes[mask][lane] = word;
                word += mask >> lane & 1;
            }
        }
    }
};
inline constexpr ExpandTable kExpand;

// `refill` of eight states.
TERSOR_AVX2 inline __m256i refill8(__m256i state, const std::uint8_t*& next) {
    const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(kRansLow), state);
    const unsigned lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
    const __m256i words =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpand.lanes[lanes]));
    const __m256i refilled =
        _mm256_or_si256(_mm256_slli_epi32(state, 16), _mm256_permutevar8x32_epi32(words, order));
    next += 2 * static_cast<unsigned>(__builtin_popcount(lanes));
    return _mm256_blendv_epi8(state, refilled, low);
}

// Stores base + the lowest byte of each of 32 table entries.
TERSOR_AVX2 inline void store_symbols(std::uint8_t* out, std::uint8_t base, __m256i a, __m256i b,
                                      __m256i c, __m256i d) {
    const __m256i byte = _mm256_set1_epi32(0xff);
    const __m256i ab = _mm256_packus_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    const __m256i cd = _mm256_packus_epi32(_mm256_and_si256(c, byte), _mm256_and_si256(d, byte));
    // The packs work within 128-bit halves: put the groups of four symbols back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_add_epi8(packed, _mm256_set1_epi8(static_cast<char>(base))));
}

TERSOR_AVX2 inline void store_symbols(std::uint16_t* out, std::uint16_t base, __m256i a, __m256i b,
                                      __m256i c, __m256i d) {
    const __m256i byte = _mm256_set1_epi32(0xff);
    const __m256i add = _mm256_set1_epi16(static_cast<short>(base));
    const __m256i ab = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte)), 0xd8);
    const __m256i cd = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_and_si256(c, byte), _mm256_and_si256(d, byte)), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi16(ab, add));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_add_epi16(cd, add));
}

}  // namespace tersor

#endif
