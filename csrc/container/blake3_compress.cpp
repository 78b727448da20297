#include "container/blake3_compress.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "bytes.hpp"
#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2")))
#define TERSOR_AVX2_INLINE TERSOR_AVX2 __attribute__((always_inline)) inline
#endif

namespace tersor::blake3 {
namespace {

// Columns, then diagonals, of the 4x4 state: (a, b, c, d) of the eight quarter rounds of a round.
constexpr size_t kQuarters[8][4] = {{0, 4, 8, 12},  {1, 5, 9, 13},  {2, 6, 10, 14}, {3, 7, 11, 15},
                                    {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13},  {3, 4, 9, 14}};

inline void quarter(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t x,
                    uint32_t y) noexcept {
    a += b + x;
    d = std::rotr(d ^ a, 16);
    c += d;
    b = std::rotr(b ^ c, 12);
    a += b + y;
    d = std::rotr(d ^ a, 8);
    c += d;
    b = std::rotr(b ^ c, 7);
}

uint32_t block_flags(const Batch& batch, size_t block) noexcept {
    return batch.flags | (block == 0 ? batch.first : 0) |
           (block + 1 == batch.blocks ? batch.last : 0);
}

void hash_one(const Batch& batch, size_t index, Words& out) noexcept {
    const uint8_t* message = batch.messages + index * batch.blocks * kBlockBytes;
    out = kIv;
    for (size_t b = 0; b < batch.blocks; ++b) {
        const auto words =
            compress(out, message + b * kBlockBytes, batch.counter + index * batch.step,
                     kBlockBytes, block_flags(batch, b));
        std::copy_n(words.begin(), 8, out.begin());
    }
}

#ifdef TERSOR_AVX2
constexpr size_t kLanes = 8;

template <int bits>
TERSOR_AVX2_INLINE __m256i rotate(__m256i x) noexcept {
    if constexpr (bits % 8 == 0) {
        constexpr int n = bits / 8;
        const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            n, (n + 1) % 4, (n + 2) % 4, (n + 3) % 4, 4 + n, 4 + (n + 1) % 4, 4 + (n + 2) % 4,
            4 + (n + 3) % 4, 8 + n, 8 + (n + 1) % 4, 8 + (n + 2) % 4, 8 + (n + 3) % 4, 12 + n,
            12 + (n + 1) % 4, 12 + (n + 2) % 4, 12 + (n + 3) % 4));
        return _mm256_shuffle_epi8(x, order);
    } else {
        return _mm256_or_si256(_mm256_srli_epi32(x, bits), _mm256_slli_epi32(x, 32 - bits));
    }
}

// Half a round: four independent quarter rounds, step by step, so that their latencies overlap.
template <size_t round, size_t first>
TERSOR_AVX2_INLINE void half_round(__m256i* v, const __m256i* m) noexcept {
    for (size_t half = 0; half < 2; ++half) {
#pragma GCC unroll 4
        for (size_t i = first; i < first + 4; ++i) {
            const auto& q = kQuarters[i];
            v[q[0]] = _mm256_add_epi32(_mm256_add_epi32(v[q[0]], v[q[1]]),
                                       m[kSchedule[round][2 * i + half]]);
            const __m256i mixed = _mm256_xor_si256(v[q[3]], v[q[0]]);
            v[q[3]] = half == 0 ? rotate<16>(mixed) : rotate<8>(mixed);
        }
#pragma GCC unroll 4
        for (size_t i = first; i < first + 4; ++i) {
            const auto& q = kQuarters[i];
            v[q[2]] = _mm256_add_epi32(v[q[2]], v[q[3]]);
            const __m256i mixed = _mm256_xor_si256(v[q[1]], v[q[2]]);
            v[q[1]] = half == 0 ? rotate<12>(mixed) : rotate<7>(mixed);
        }
    }
}

template <size_t... rounds>
TERSOR_AVX2_INLINE void all_rounds(__m256i* v, const __m256i* m,
                                   std::index_sequence<rounds...>) noexcept {
    ((half_round<rounds, 0>(v, m), half_round<rounds, 4>(v, m)), ...);
}

TERSOR_AVX2_INLINE void transpose(__m256i* r) noexcept {
    __m256i a[8], b[8];
    for (size_t i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (size_t i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// Messages `index` .. `index + 7`, one a lane. Lanes beyond the last message repeat it; `out` has
// room for all lanes.
TERSOR_AVX2 void hash_lanes(const Batch& batch, size_t index, Words* out) noexcept {
    const size_t lanes = std::min(kLanes, batch.count - index);
    const uint8_t* lane[kLanes];
    alignas(32) uint32_t counter_low[kLanes], counter_high[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
        const size_t message = index + std::min(i, lanes - 1);
        lane[i] = batch.messages + message * batch.blocks * kBlockBytes;
        const uint64_t counter = batch.counter + message * batch.step;
        counter_low[i] = static_cast<uint32_t>(counter);
        counter_high[i] = static_cast<uint32_t>(counter >> 32);
    }
    __m256i h[8];
    for (size_t i = 0; i < 8; ++i) h[i] = _mm256_set1_epi32(static_cast<int>(kIv[i]));
    for (size_t b = 0; b < batch.blocks; ++b) {
        __m256i m[16];
        for (size_t i = 0; i < kLanes; ++i) {
            const auto at = reinterpret_cast<const __m256i*>(lane[i] + b * kBlockBytes);
            m[i] = _mm256_loadu_si256(at);
            m[i + 8] = _mm256_loadu_si256(at + 1);
        }
        transpose(m);
        transpose(m + 8);
        __m256i v[16];
        for (size_t i = 0; i < 8; ++i) v[i] = h[i];
        for (size_t i = 0; i < 4; ++i) v[8 + i] = _mm256_set1_epi32(static_cast<int>(kIv[i]));
        v[12] = _mm256_load_si256(reinterpret_cast<const __m256i*>(counter_low));
        v[13] = _mm256_load_si256(reinterpret_cast<const __m256i*>(counter_high));
        v[14] = _mm256_set1_epi32(static_cast<int>(kBlockBytes));
        v[15] = _mm256_set1_epi32(static_cast<int>(block_flags(batch, b)));
        all_rounds(v, m, std::make_index_sequence<kSchedule.size()>{});
        for (size_t i = 0; i < 8; ++i) h[i] = _mm256_xor_si256(v[i], v[i + 8]);
    }
    transpose(h);
    for (size_t i = 0; i < lanes; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[i].data()), h[i]);
    }
}
#endif

}  // namespace

std::array<uint32_t, 16> compress(const Words& chaining, const uint8_t* block, uint64_t counter,
                                  uint32_t bytes, uint32_t flags) noexcept {
    std::array<uint32_t, 16> m;
    for (size_t i = 0; i < 16; ++i) m[i] = load<uint32_t>(block + 4 * i);
    std::array<uint32_t, 16> v;
    std::copy_n(chaining.begin(), 8, v.begin());
    std::copy_n(kIv.begin(), 4, v.begin() + 8);
    v[12] = static_cast<uint32_t>(counter);
    v[13] = static_cast<uint32_t>(counter >> 32);
    v[14] = bytes;
    v[15] = flags;
#pragma GCC unroll 7
    for (size_t round = 0; round < kSchedule.size(); ++round) {
        const auto& order = kSchedule[round];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; ++i) {
            const auto& q = kQuarters[i];
            quarter(v[q[0]], v[q[1]], v[q[2]], v[q[3]], m[order[2 * i]], m[order[2 * i + 1]]);
        }
    }
    for (size_t i = 0; i < 8; ++i) {
        v[i] ^= v[i + 8];
        v[i + 8] ^= chaining[i];
    }
    return v;
}

void hash_batch(const Batch& batch, Words* out) noexcept {
    size_t done = 0;
#ifdef TERSOR_AVX2
    // Eight lanes cost about as much as two messages one by one.
    if (active_isa() >= Isa::avx2) {
        for (; done + 2 < batch.count; done += std::min(kLanes, batch.count - done)) {
            hash_lanes(batch, done, out + done);
        }
    }
#endif
    for (; done < batch.count; ++done) hash_one(batch, done, out[done]);
}

}  // namespace tersor::blake3
