#include "container/xxh3.hpp"

#include <array>
#include <bit>

#include "bytes.hpp"
#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2")))
#endif

namespace tersor {
namespace {

constexpr uint64_t kPrime32_1 = 0x9E3779B1, kPrime32_2 = 0x85EBCA77, kPrime32_3 = 0xC2B2AE3D;
constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87, kPrime64_2 = 0xC2B2AE3D27D4EB4F,
                   kPrime64_3 = 0x165667B19E3779F9, kPrime64_4 = 0x85EBCA77C2B2AE63,
                   kPrime64_5 = 0x27D4EB2F165667C5;
constexpr uint64_t kMix1 = 0x165667919E3779F9, kMix2 = 0x9FB21C651E98DF25;

constexpr size_t kSecretSize = 192;
alignas(64) constexpr uint8_t kSecret[kSecretSize] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

constexpr size_t kStripe = 64;
constexpr size_t kSecretStep = 8;
constexpr size_t kStripesPerBlock = (kSecretSize - kStripe) / kSecretStep;
constexpr size_t kBlock = kStripe * kStripesPerBlock;

using Accumulators = std::array<uint64_t, 8>;

uint64_t multiply_fold(uint64_t a, uint64_t b) noexcept {
    __extension__ using uint128 = unsigned __int128;
    const uint128 product = static_cast<uint128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t avalanche(uint64_t h) noexcept {
    h = (h ^ (h >> 37)) * kMix1;
    return h ^ (h >> 32);
}

// The final mix of XXH64, which XXH3 keeps for inputs below 4 bytes.
uint64_t avalanche_xxh64(uint64_t h) noexcept {
    h = (h ^ (h >> 33)) * kPrime64_2;
    h = (h ^ (h >> 29)) * kPrime64_3;
    return h ^ (h >> 32);
}

uint64_t secret_pair(size_t offset) noexcept {
    return load<uint64_t>(kSecret + offset) ^ load<uint64_t>(kSecret + offset + 8);
}

uint64_t mix16(const uint8_t* input, const uint8_t* secret) noexcept {
    return multiply_fold(load<uint64_t>(input) ^ load<uint64_t>(secret),
                         load<uint64_t>(input + 8) ^ load<uint64_t>(secret + 8));
}

uint64_t hash_up_to_16(const uint8_t* p, size_t n) noexcept {
    if (n > 8) {
        const uint64_t low = load<uint64_t>(p) ^ secret_pair(24);
        const uint64_t high = load<uint64_t>(p + n - 8) ^ secret_pair(40);
        return avalanche(n + __builtin_bswap64(low) + high + multiply_fold(low, high));
    }
    if (n >= 4) {
        const uint64_t first = load<uint32_t>(p), last = load<uint32_t>(p + n - 4);
        uint64_t h = (last + (first << 32)) ^ secret_pair(8);
        h ^= std::rotl(h, 49) ^ std::rotl(h, 24);
        h *= kMix2;
        h ^= (h >> 35) + n;
        h *= kMix2;
        return h ^ (h >> 28);
    }
    if (n > 0) {
        const uint32_t combined = (uint32_t{p[0]} << 16) | (uint32_t{p[n >> 1]} << 24) | p[n - 1] |
                                  static_cast<uint32_t>(n << 8);
        return avalanche_xxh64(combined ^ (load<uint32_t>(kSecret) ^ load<uint32_t>(kSecret + 4)));
    }
    return avalanche_xxh64(secret_pair(56));
}

uint64_t hash_17_to_128(const uint8_t* p, size_t n) noexcept {
    uint64_t h = n * kPrime64_1;
    for (size_t i = (n - 1) / 32 + 1; i-- > 0;) {
        h += mix16(p + 16 * i, kSecret + 32 * i);
        h += mix16(p + n - 16 * (i + 1), kSecret + 32 * i + 16);
    }
    return avalanche(h);
}

uint64_t hash_129_to_240(const uint8_t* p, size_t n) noexcept {
    uint64_t h = n * kPrime64_1;
    for (size_t i = 0; i < 8; ++i) h += mix16(p + 16 * i, kSecret + 16 * i);
    h = avalanche(h);
    for (size_t i = 8; i < n / 16; ++i) h += mix16(p + 16 * i, kSecret + 16 * (i - 8) + 3);
    return avalanche(h + mix16(p + n - 16, kSecret + 136 - 17));
}

void accumulate_scalar(Accumulators& acc, const uint8_t* p, size_t stripes,
                       const uint8_t* secret) noexcept {
    for (size_t s = 0; s < stripes; ++s) {
        for (size_t i = 0; i < 8; ++i) {
            const uint64_t value = load<uint64_t>(p + s * kStripe + 8 * i);
            const uint64_t key = value ^ load<uint64_t>(secret + s * kSecretStep + 8 * i);
            acc[i ^ 1] += value;
            acc[i] += (key & 0xffffffff) * (key >> 32);
        }
    }
}

void scramble(Accumulators& acc) noexcept {
    for (size_t i = 0; i < 8; ++i) {
        const uint64_t key = load<uint64_t>(kSecret + kSecretSize - kStripe + 8 * i);
        acc[i] = (acc[i] ^ (acc[i] >> 47) ^ key) * kPrime32_1;
    }
}

#ifdef TERSOR_AVX2
TERSOR_AVX2 void accumulate_avx2(Accumulators& acc, const uint8_t* p, size_t stripes,
                                 const uint8_t* secret) noexcept {
    const auto vectors = reinterpret_cast<__m256i*>(acc.data());
    __m256i sums[2] = {_mm256_loadu_si256(vectors), _mm256_loadu_si256(vectors + 1)};
    for (size_t s = 0; s < stripes; ++s) {
        for (size_t i = 0; i < 2; ++i) {
            const auto at = reinterpret_cast<const __m256i*>(p + s * kStripe) + i;
            const auto secret_at = reinterpret_cast<const __m256i*>(secret + s * kSecretStep) + i;
            const __m256i value = _mm256_loadu_si256(at);
            const __m256i key = _mm256_xor_si256(value, _mm256_loadu_si256(secret_at));
            const __m256i product = _mm256_mul_epu32(key, _mm256_srli_epi64(key, 32));
            const __m256i swapped = _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2));
            sums[i] = _mm256_add_epi64(sums[i], _mm256_add_epi64(product, swapped));
        }
        _mm_prefetch(reinterpret_cast<const char*>(p + s * kStripe + 512), _MM_HINT_T0);
    }
    _mm256_storeu_si256(vectors, sums[0]);
    _mm256_storeu_si256(vectors + 1, sums[1]);
}
#endif

uint64_t hash_long(const uint8_t* p, size_t n) noexcept {
    auto* accumulate = accumulate_scalar;
#ifdef TERSOR_AVX2
    if (active_isa() >= Isa::avx2) accumulate = accumulate_avx2;
#endif
    Accumulators acc = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                        kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
    const size_t blocks = (n - 1) / kBlock;
    for (size_t b = 0; b < blocks; ++b) {
        accumulate(acc, p + b * kBlock, kStripesPerBlock, kSecret);
        scramble(acc);
    }
    accumulate(acc, p + blocks * kBlock, (n - 1 - blocks * kBlock) / kStripe, kSecret);
    accumulate(acc, p + n - kStripe, 1, kSecret + kSecretSize - kStripe - 7);
    uint64_t h = n * kPrime64_1;
    for (size_t i = 0; i < 4; ++i) {
        const uint8_t* secret = kSecret + 11 + 16 * i;
        h += multiply_fold(acc[2 * i] ^ load<uint64_t>(secret),
                           acc[2 * i + 1] ^ load<uint64_t>(secret + 8));
    }
    return avalanche(h);
}

}  // namespace

uint64_t xxh3_64(std::span<const uint8_t> data) noexcept {
    const uint8_t* p = data.data();
    const size_t n = data.size();
    if (n <= 16) return hash_up_to_16(p, n);
    if (n <= 128) return hash_17_to_128(p, n);
    if (n <= 240) return hash_129_to_240(p, n);
    return hash_long(p, n);
}

}  // namespace tersor
