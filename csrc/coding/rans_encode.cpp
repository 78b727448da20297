#include "coding/rans_encode.hpp"

#include <array>
#include <bit>
#include <vector>

#include "coding/rans.hpp"
#include "coding/rans_decode.hpp"
#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#endif

namespace tersor {
namespace {

// What may be written before the coded bytes: words are stored before it is known how many count.
constexpr std::size_t kSlack = 16;

// How to encode one symbol: x -> (x / f) * 2^scale + x % f + start, the division as a
// multiplication (Alverson 1991; exact for x < 2^31).
struct EncodeStep {
    std::uint32_t reciprocal;  // of f
    std::uint32_t bias;
    std::uint32_t f;
    std::uint32_t shift;
};

EncodeStep make_step(std::uint32_t f, std::uint32_t start, unsigned scale_bits) {
    // x * (2^32 - 1) / 2^32 = x - 1 for the quotient by 1; the bias makes up for the missing one.
    if (f == 1) return {~0u, start + (1u << scale_bits) - 1, f, 0};
    const unsigned shift = static_cast<unsigned>(std::bit_width(f - 1));
    const std::uint64_t reciprocal = ((std::uint64_t{1} << (shift + 31)) + f - 1) / f;
    return {static_cast<std::uint32_t>(reciprocal), start, f, shift - 1};
}

std::vector<EncodeStep> make_steps(const FrequencyTable& table) {
    std::vector<EncodeStep> steps(table.alphabet.size);
    std::uint32_t start = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const std::uint32_t f = table.frequencies[i];
        if (f > 0) steps[i] = make_step(f, start, table.scale_bits);
        start += f;
    }
    return steps;
}

inline void store_le16(std::uint8_t* to, std::uint32_t value) noexcept {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// Symbols to positions in `steps`.
struct Places {
    std::uint32_t offset;
    std::uint32_t first;
    unsigned split;

    template <typename T>
    std::uint32_t operator()(T symbol) const noexcept {
        return static_cast<std::uint32_t>(static_cast<T>(symbol + offset) >> split) - first;
    }
};

// The first `symbols.size()` lanes take one symbol each, the last lane first.
template <typename T>
std::uint8_t* encode_scalar(std::span<const T> symbols, Places place, const EncodeStep* steps,
                            unsigned scale_bits, std::uint32_t* states, std::uint8_t* out) {
    for (std::size_t lane = symbols.size(); lane-- > 0;) {
        const EncodeStep& step = steps[place(symbols[lane])];
        std::uint32_t x = states[lane];
        // Always store, move only if needed: no branch to mispredict.
        store_le16(out - 2, x);
        const bool full = x >= step.f << (31 - scale_bits);
        out -= 2 * full;
        x >>= 16 * full;
        const std::uint32_t quotient =
            static_cast<std::uint32_t>((static_cast<std::uint64_t>(x) * step.reciprocal) >> 32) >>
            step.shift;
        states[lane] = x + step.bias + quotient * ((1u << scale_bits) - step.f);
    }
    return out;
}

#if defined(TERSOR_AVX2)

// A step in 64 bits, for scales up to 12: bits 0-31 reciprocal, 32-43 f, 44-56 bias, 57-60 shift.
constexpr unsigned kBiasShift = 12;
constexpr unsigned kShiftShift = 25;

std::vector<std::uint64_t> pack_steps(const std::vector<EncodeStep>& steps) {
    std::vector<std::uint64_t> packed;
    packed.reserve(steps.size());
    for (const EncodeStep& step : steps) {
        const std::uint32_t fields = step.f | step.bias << kBiasShift | step.shift << kShiftShift;
        packed.push_back(static_cast<std::uint64_t>(fields) << 32 | step.reciprocal);
    }
    return packed;
}

// For a mask of eight lanes that give a word away: which do, in the last places of eight words.
struct CompressTable {
    alignas(64) std::uint8_t order[256][16];
    constexpr CompressTable() : order{} {
        for (unsigned mask = 0; mask < 256; ++mask) {
            unsigned place = 8;
            for (unsigned lane = 8; lane-- > 0;) {
                if ((mask >> lane & 1) == 0) continue;
                --place;
                order[mask][2 * place] = static_cast<std::uint8_t>(2 * lane);
                order[mask][2 * place + 1] = static_cast<std::uint8_t>(2 * lane + 1);
            }
        }
    }
};
constexpr CompressTable kCompress;

TERSOR_AVX2 inline __m256i load_steps(const std::uint64_t* a, const std::uint64_t* b,
                                      const std::uint64_t* c, const std::uint64_t* d) {
    const auto two = [](const std::uint64_t* low, const std::uint64_t* high) TERSOR_AVX2 {
        return _mm_set_epi64x(static_cast<long long>(*high), static_cast<long long>(*low));
    };
    return _mm256_set_m128i(two(c, d), two(a, b));
}

// The low words of the lanes in `mask`, before `out`.
TERSOR_AVX2 inline std::uint8_t* give_words(std::uint8_t* out, __m256i x, unsigned mask) {
    const __m256i low_words =
        _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9,
                         12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i halves = _mm256_shuffle_epi8(x, low_words);
    const __m128i words =
        _mm_unpacklo_epi64(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(kCompress.order[mask]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out - 16), _mm_shuffle_epi8(words, order));
    return out - 2 * __builtin_popcount(mask);
}

// Eight lanes take a symbol each.
template <typename T>
TERSOR_AVX2 inline std::uint8_t* encode8(const T* symbols, T to_place, const std::uint64_t* steps,
                                         unsigned scale_bits, __m256i& x, std::uint8_t* out) {
    const auto step = [&](unsigned lane) {
        return steps + static_cast<T>(symbols[lane] + to_place);
    };
    // Steps of the lanes 0, 1, 4, 5 and 2, 3, 6, 7: shuffles within halves put them in order.
    const __m256 even = _mm256_castsi256_ps(load_steps(step(0), step(1), step(4), step(5)));
    const __m256 odd = _mm256_castsi256_ps(load_steps(step(2), step(3), step(6), step(7)));
    const __m256i reciprocal = _mm256_castps_si256(_mm256_shuffle_ps(even, odd, 0x88));
    const __m256i fields = _mm256_castps_si256(_mm256_shuffle_ps(even, odd, 0xdd));
    const __m256i f = _mm256_and_si256(fields, _mm256_set1_epi32(0xfff));
    const __m256i bias =
        _mm256_and_si256(_mm256_srli_epi32(fields, kBiasShift), _mm256_set1_epi32(0x1fff));
    const __m256i shift = _mm256_srli_epi32(fields, kShiftShift);

    const __m256i limit = _mm256_sll_epi32(f, _mm_cvtsi32_si128(static_cast<int>(31 - scale_bits)));
    const __m256i has_room = _mm256_cmpgt_epi32(limit, x);
    const unsigned room = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(has_room)));
    out = give_words(out, x, room ^ 0xff);
    x = _mm256_srlv_epi32(x, _mm256_andnot_si256(has_room, _mm256_set1_epi32(16)));

    const __m256i even_product = _mm256_srli_epi64(_mm256_mul_epu32(x, reciprocal), 32);
    const __m256i odd_product =
        _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(reciprocal, 32));
    const __m256i quotient =
        _mm256_srlv_epi32(_mm256_blend_epi32(even_product, odd_product, 0xaa), shift);
    const __m256i complement = _mm256_sub_epi32(_mm256_set1_epi32(1 << scale_bits), f);
    x = _mm256_add_epi32(_mm256_add_epi32(x, bias), _mm256_mullo_epi32(quotient, complement));
    return out;
}

// Whole groups of 32 symbols, the last one first.
template <typename T>
TERSOR_AVX2 std::uint8_t* encode_avx2(std::span<const T> symbols, T to_place,
                                      const std::vector<EncodeStep>& steps, unsigned scale_bits,
                                      std::uint32_t* states, std::uint8_t* out) {
    const std::vector<std::uint64_t> packed = pack_steps(steps);
    __m256i* const vectors = reinterpret_cast<__m256i*>(states);
    __m256i a = _mm256_loadu_si256(vectors);
    __m256i b = _mm256_loadu_si256(vectors + 1);
    __m256i c = _mm256_loadu_si256(vectors + 2);
    __m256i d = _mm256_loadu_si256(vectors + 3);
    for (std::size_t i = symbols.size(); i > 0; i -= 32) {
        const T* const group = symbols.data() + i - 32;
        out = encode8(group + 24, to_place, packed.data(), scale_bits, d, out);
        out = encode8(group + 16, to_place, packed.data(), scale_bits, c, out);
        out = encode8(group + 8, to_place, packed.data(), scale_bits, b, out);
        out = encode8(group, to_place, packed.data(), scale_bits, a, out);
    }
    _mm256_storeu_si256(vectors, a);
    _mm256_storeu_si256(vectors + 1, b);
    _mm256_storeu_si256(vectors + 2, c);
    _mm256_storeu_si256(vectors + 3, d);
    return out;
}

#endif

template <unsigned L, typename T>
std::uint8_t* encode_groups(std::span<const T> symbols, SymbolKind kind,
                            const FrequencyTable& table, std::uint8_t* out) {
    const std::vector<EncodeStep> steps = make_steps(table);
    const Places place{kind.offset, table.alphabet.first, table.alphabet.split};
    std::array<std::uint32_t, L> states;
    states.fill(kRansLow);
    std::size_t left = symbols.size() / L * L;
    out = encode_scalar(symbols.subspan(left), place, steps.data(), table.scale_bits, states.data(),
                        out);
#if defined(TERSOR_AVX2)
    if constexpr (L == 32) {
        if (active_isa() >= Isa::avx2 && table.scale_bits <= kMaxNarrowScaleBits &&
            place.split == 0) {
            out = encode_avx2(symbols.first(left), static_cast<T>(place.offset - place.first),
                              steps, table.scale_bits, states.data(), out);
            left = 0;
        }
    }
#endif
    for (; left > 0; left -= L) {
        out = encode_scalar(symbols.subspan(left - L, L), place, steps.data(), table.scale_bits,
                            states.data(), out);
    }
    for (unsigned lane = L; lane-- > 0;) {
        out -= 4;
        store_le16(out, states[lane]);
        store_le16(out + 2, states[lane] >> 16);
    }
    return out;
}

}  // namespace

std::size_t encode_capacity(std::size_t symbols) noexcept {
    return 2 * symbols + 4 * rans_lanes(symbols) + kSlack;
}

template <typename T>
std::uint8_t* encode_lanes(std::span<const T> symbols, SymbolKind kind, const FrequencyTable& table,
                           std::uint8_t* end) {
    switch (rans_lanes(symbols.size())) {
        case 1:
            return encode_groups<1>(symbols, kind, table, end);
        case 4:
            return encode_groups<4>(symbols, kind, table, end);
        default:
            return encode_groups<32>(symbols, kind, table, end);
    }
}

template std::uint8_t* encode_lanes<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                                  const FrequencyTable&, std::uint8_t*);
template std::uint8_t* encode_lanes<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                                   const FrequencyTable&, std::uint8_t*);

}  // namespace tersor
