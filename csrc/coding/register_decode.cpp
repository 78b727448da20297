#include "coding/register_decode.hpp"

#include <cstring>

#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
// GCC 12 takes the undefined vectors within its own AVX-512 intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#define TERSOR_AVX512 \
    __attribute__((target("avx2,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2")))
#endif

namespace tersor {
namespace {

std::size_t decode_scalar(const RegisterLookup& lookup, RegisterStates& states,
                          const std::uint8_t*& next, const std::uint8_t* limit, std::uint8_t* out,
                          std::size_t groups) {
    std::size_t group = 0;
    for (; group < groups && next <= limit; ++group) {
        decode_register_lanes(lookup, states, next, out + group * states.lanes, states.lanes);
    }
    return group;
}

#if defined(TERSOR_AVX2)

// For a mask of eight lanes that need a byte: which of the next bytes each lane gets.
struct ExpandTable {
    alignas(64) std::uint64_t order[256];
    constexpr explicit ExpandTable(unsigned first) : order{} {
        for (unsigned mask = 0; mask < 256; ++mask) {
            std::uint64_t byte = first;
            for (unsigned lane = 0; lane < 8; ++lane) {
                order[mask] |= byte << (8 * lane);
                byte += mask >> lane & 1;
            }
        }
    }
};
constexpr ExpandTable kExpandLow(0);
constexpr ExpandTable kExpandHigh(8);  // for the upper half of a shuffle of 16 bytes

TERSOR_AVX2 inline __m128i load_halves(const void* low, const void* high) {
    std::array<long long, 2> halves;
    std::memcpy(&halves[0], low, 8);
    std::memcpy(&halves[1], high, 8);
    return _mm_set_epi64x(halves[1], halves[0]);
}

// The next bytes in the places of the lanes that need one; others hold anything.
TERSOR_AVX2 inline __m256i expand_bytes(std::uint32_t mask, const std::uint8_t*& next) {
    const std::uint8_t* const second = next + __builtin_popcount(mask & 0xff);
    const std::uint8_t* const third = next + __builtin_popcount(mask & 0xffff);
    const std::uint8_t* const fourth = next + __builtin_popcount(mask & 0xffffff);
    const __m256i bytes = _mm256_set_m128i(load_halves(third, fourth), load_halves(next, second));
    const __m256i order = _mm256_set_m128i(
        load_halves(kExpandLow.order + (mask >> 16 & 0xff), kExpandHigh.order + (mask >> 24)),
        load_halves(kExpandLow.order + (mask & 0xff), kExpandHigh.order + (mask >> 8 & 0xff)));
    next += __builtin_popcount(mask);
    return _mm256_shuffle_epi8(bytes, order);
}

template <bool kWide>
struct Tables;

// Tables of 16 bytes, in both halves of a vector.
template <>
struct Tables<false> {
    __m256i bytes;
    TERSOR_AVX2 explicit Tables(const std::array<std::uint8_t, kMaxIds>& table)
        : bytes(_mm256_broadcastsi128_si256(
              _mm_load_si128(reinterpret_cast<const __m128i*>(table.data())))) {}
    // The entry of each index; `select` has its sign bit set where the index is 16 or more.
    TERSOR_AVX2 __m256i operator()(__m256i index, __m256i) const {
        return _mm256_shuffle_epi8(bytes, index);
    }
};

template <>
struct Tables<true> {
    __m256i low;
    __m256i high;
    TERSOR_AVX2 explicit Tables(const std::array<std::uint8_t, kMaxIds>& table)
        : low(_mm256_broadcastsi128_si256(
              _mm_load_si128(reinterpret_cast<const __m128i*>(table.data())))),
          high(_mm256_broadcastsi128_si256(
              _mm_load_si128(reinterpret_cast<const __m128i*>(table.data() + 16)))) {}
    TERSOR_AVX2 __m256i operator()(__m256i index, __m256i select) const {
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index),
                                  select);
    }
};

template <bool kWide>
struct Kernel {
    Tables<kWide> alias_slot;
    Tables<kWide> alias;
    Tables<kWide> alias_base;
    Tables<kWide> frequencies;
    Tables<kWide> symbols;

    TERSOR_AVX2 explicit Kernel(const RegisterLookup& lookup)
        : alias_slot(lookup.alias_slot),
          alias(lookup.alias),
          alias_base(lookup.alias_base),
          frequencies(lookup.frequencies),
          symbols(lookup.symbols) {}

    // 32 lanes one symbol further; returns the symbols.
    TERSOR_AVX2 inline __m256i step(__m256i& low, __m256i& high, const std::uint8_t*& next) const {
        // Slots of a bucket have the same sign: comparing them as signed bytes is right.
        const __m256i base = _mm256_and_si256(low, _mm256_set1_epi8(kWide ? -8 : -16));
        const __m256i bucket = _mm256_srli_epi16(base, kWide ? 3 : 4);
        const __m256i is_own = _mm256_cmpgt_epi8(alias_slot(bucket, low), low);
        const __m256i id = _mm256_blendv_epi8(alias(bucket, low), bucket, is_own);
        const __m256i rank =
            _mm256_sub_epi8(low, _mm256_blendv_epi8(alias_base(bucket, low), base, is_own));
        const __m256i upper = kWide ? _mm256_slli_epi16(id, 3) : id;
        const __m256i f = frequencies(id, upper);

        // x = f * (x >> 8) + rank for the even lanes and the odd ones, back into bytes.
        const __m256i even_byte = _mm256_set1_epi16(0xff);
        const __m256i even = _mm256_add_epi16(
            _mm256_mullo_epi16(_mm256_and_si256(high, even_byte), _mm256_and_si256(f, even_byte)),
            _mm256_and_si256(rank, even_byte));
        const __m256i odd = _mm256_add_epi16(
            _mm256_mullo_epi16(_mm256_srli_epi16(high, 8), _mm256_srli_epi16(f, 8)),
            _mm256_srli_epi16(rank, 8));
        const __m256i odd_byte = _mm256_set1_epi16(static_cast<short>(0xff00));
        const __m256i x_low = _mm256_blendv_epi8(even, _mm256_slli_epi16(odd, 8), odd_byte);
        const __m256i x_high = _mm256_blendv_epi8(_mm256_srli_epi16(even, 8), odd, odd_byte);

        const __m256i needs = _mm256_cmpeq_epi8(x_high, _mm256_setzero_si256());
        const std::uint32_t mask = static_cast<std::uint32_t>(_mm256_movemask_epi8(needs));
        high = _mm256_blendv_epi8(x_high, x_low, needs);
        low = _mm256_blendv_epi8(x_low, expand_bytes(mask, next), needs);
        return symbols(id, upper);
    }
};

template <bool kWide, unsigned kVectors>
TERSOR_AVX2 std::size_t decode_avx2(const RegisterLookup& lookup, RegisterStates& states,
                                    const std::uint8_t*& next, const std::uint8_t* limit,
                                    std::uint8_t* out, std::size_t groups) {
    const Kernel<kWide> kernel(lookup);
    __m256i low[kVectors];
    __m256i high[kVectors];
    for (unsigned v = 0; v < kVectors; ++v) {
        low[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(states.low.data()) + v);
        high[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(states.high.data()) + v);
    }
    const std::uint8_t* from = next;
    std::size_t group = 0;
    for (; group < groups && from <= limit; ++group) {
        __m256i* const to = reinterpret_cast<__m256i*>(out + group * 32 * kVectors);
#pragma GCC unroll 8
        for (unsigned v = 0; v < kVectors; ++v) {
            _mm256_storeu_si256(to + v, kernel.step(low[v], high[v], from));
        }
    }
    for (unsigned v = 0; v < kVectors; ++v) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(states.low.data()) + v, low[v]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(states.high.data()) + v, high[v]);
    }
    next = from;
    return group;
}

// Groups that hold no placeholder are the rule; the others are patched without further branches,
// which would be coin tosses.
TERSOR_AVX2 std::size_t patch_avx2(std::span<std::uint8_t> symbols, std::uint8_t placeholder,
                                   const std::uint8_t*& next, const std::uint8_t* end) {
    const __m256i wanted = _mm256_set1_epi8(static_cast<char>(placeholder));
    constexpr unsigned kVectors = kRegisterLanes / 32;
    std::size_t i = 0;
    for (; i + kRegisterLanes <= symbols.size() && next <= end; i += kRegisterLanes) {
        __m256i* const group = reinterpret_cast<__m256i*>(symbols.data() + i);
        __m256i found[kVectors];
        for (unsigned v = 0; v < kVectors; ++v) {
            found[v] = _mm256_cmpeq_epi8(_mm256_loadu_si256(group + v), wanted);
        }
        const __m256i any = _mm256_or_si256(_mm256_or_si256(found[0], found[1]),
                                            _mm256_or_si256(found[2], found[3]));
        if (_mm256_testz_si256(any, any)) continue;
        for (unsigned v = 0; v < kVectors; ++v) {
            const auto mask = static_cast<std::uint32_t>(_mm256_movemask_epi8(found[v]));
            const __m256i escapes = expand_bytes(mask, next);
            const __m256i old = _mm256_loadu_si256(group + v);
            _mm256_storeu_si256(group + v, _mm256_blendv_epi8(old, escapes, found[v]));
        }
    }
    return i;
}

// The steps of the AVX2 kernel with byte permutes for the tables, masks for the
// blends and a byte expansion for the refill. kShift: from a slot to its bucket.
template <unsigned kShift>
struct Kernel512 {
    __m512i alias_slot;
    __m512i alias;
    __m512i alias_base;
    __m512i frequencies;
    __m512i symbols;

    TERSOR_AVX512 static __m512i load(const std::array<std::uint8_t, kMaxIds>& table) {
        return _mm512_broadcast_i64x4(
            _mm256_load_si256(reinterpret_cast<const __m256i*>(table.data())));
    }

    TERSOR_AVX512 explicit Kernel512(const RegisterLookup& lookup)
        : alias_slot(load(lookup.alias_slot)),
          alias(load(lookup.alias)),
          alias_base(load(lookup.alias_base)),
          frequencies(load(lookup.frequencies)),
          symbols(load(lookup.symbols)) {}

    // 64 lanes one symbol further; returns the symbols.
    TERSOR_AVX512 inline __m512i step(__m512i& low, __m512i& high,
                                      const std::uint8_t*& next) const {
        const __m512i base = _mm512_and_si512(low, _mm512_set1_epi8(-(1 << kShift)));
        const __m512i bucket = _mm512_srli_epi16(base, kShift);
        const __mmask64 is_alias =
            _mm512_cmpge_epi8_mask(low, _mm512_permutexvar_epi8(bucket, alias_slot));
        const __m512i id = _mm512_mask_permutexvar_epi8(bucket, is_alias, bucket, alias);
        const __m512i rank =
            _mm512_sub_epi8(low, _mm512_mask_permutexvar_epi8(base, is_alias, bucket, alias_base));
        const __m512i f = _mm512_permutexvar_epi8(id, frequencies);

        const __m512i even_byte = _mm512_set1_epi16(0xff);
        const __m512i even = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_and_si512(high, even_byte), _mm512_and_si512(f, even_byte)),
            _mm512_and_si512(rank, even_byte));
        const __m512i odd = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_srli_epi16(high, 8), _mm512_srli_epi16(f, 8)),
            _mm512_srli_epi16(rank, 8));
        const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaa;
        const __m512i x_low = _mm512_mask_blend_epi8(odd_bytes, even, _mm512_slli_epi16(odd, 8));
        const __m512i x_high = _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16(even, 8), odd);

        const __mmask64 needs = _mm512_cmpeq_epi8_mask(x_high, _mm512_setzero_si512());
        high = _mm512_mask_blend_epi8(needs, x_high, x_low);
        low = _mm512_mask_expand_epi8(x_low, needs, _mm512_loadu_si512(next));
        next += __builtin_popcountll(needs);
        return _mm512_permutexvar_epi8(id, symbols);
    }
};

template <unsigned kShift, unsigned kVectors>
TERSOR_AVX512 std::size_t decode_avx512(const RegisterLookup& lookup, RegisterStates& states,
                                        const std::uint8_t*& next, const std::uint8_t* limit,
                                        std::uint8_t* out, std::size_t groups) {
    const Kernel512<kShift> kernel(lookup);
    __m512i low[kVectors];
    __m512i high[kVectors];
    for (unsigned v = 0; v < kVectors; ++v) {
        low[v] = _mm512_loadu_si512(states.low.data() + 64 * v);
        high[v] = _mm512_loadu_si512(states.high.data() + 64 * v);
    }
    const std::uint8_t* from = next;
    std::size_t group = 0;
    for (; group < groups && from <= limit; ++group) {
        for (unsigned v = 0; v < kVectors; ++v) {
            const __m512i symbols = kernel.step(low[v], high[v], from);
            _mm512_storeu_si512(out + 64 * (group * kVectors + v), symbols);
        }
    }
    for (unsigned v = 0; v < kVectors; ++v) {
        _mm512_storeu_si512(states.low.data() + 64 * v, low[v]);
        _mm512_storeu_si512(states.high.data() + 64 * v, high[v]);
    }
    next = from;
    return group;
}

using Decode = decltype(&decode_avx2<false, 1>);

Decode choose_avx2(bool wide, unsigned lanes) {
    switch (lanes) {
        case 32:
            return wide ? decode_avx2<true, 1> : decode_avx2<false, 1>;
        case 64:
            return wide ? decode_avx2<true, 2> : decode_avx2<false, 2>;
        default:
            return wide ? decode_avx2<true, 4> : decode_avx2<false, 4>;
    }
}

Decode choose_avx512(bool wide, unsigned lanes) {
    switch (lanes) {
        case 32:
            return choose_avx2(wide, lanes);
        case 64:
            return wide ? decode_avx512<3, 1> : decode_avx512<4, 1>;
        default:
            return wide ? decode_avx512<3, 2> : decode_avx512<4, 2>;
    }
}

#endif

}  // namespace

std::size_t decode_register_groups(const RegisterLookup& lookup, RegisterStates& states,
                                   const std::uint8_t*& next, const std::uint8_t* limit,
                                   std::uint8_t* out, std::size_t groups) {
#if defined(TERSOR_AVX2)
    const bool wide = lookup.buckets == 32;
    if (active_isa() >= Isa::avx512) {
        return choose_avx512(wide, states.lanes)(lookup, states, next, limit, out, groups);
    }
    if (active_isa() >= Isa::avx2) {
        return choose_avx2(wide, states.lanes)(lookup, states, next, limit, out, groups);
    }
#endif
    return decode_scalar(lookup, states, next, limit, out, groups);
}

bool patch_escapes(std::span<std::uint8_t> symbols, std::uint8_t placeholder,
                   const std::uint8_t*& next, const std::uint8_t* end) {
#if defined(TERSOR_AVX2)
    if (active_isa() >= Isa::avx2) {
        symbols = symbols.subspan(patch_avx2(symbols, placeholder, next, end));
    }
#endif
    std::uint8_t* at = symbols.data();
    const auto left = [&] {
        return symbols.size() - static_cast<std::size_t>(at - symbols.data());
    };
    void* found;
    while (next <= end && (found = std::memchr(at, placeholder, left())) != nullptr) {
        at = static_cast<std::uint8_t*>(found);
        *at++ = *next++;
    }
    return next <= end;
}

void decode_register_lanes(const RegisterLookup& lookup, RegisterStates& states,
                           const std::uint8_t*& next, std::uint8_t* out, unsigned lanes) {
    const std::uint8_t* from = next;
    for (unsigned lane = 0; lane < lanes; ++lane) {
        const RegisterLookup::Slot slot = lookup.slots[states.low[lane]];
        out[lane] = slot.symbol;
        const unsigned x = slot.frequency * states.high[lane] + slot.rank;
        // Arithmetic, because a branch would be a coin toss.
        const unsigned needs = x < kSlots;
        const unsigned refilled = x << (8 * needs) | (*from & (0u - needs));
        from += needs;
        states.low[lane] = static_cast<std::uint8_t>(refilled);
        states.high[lane] = static_cast<std::uint8_t>(refilled >> 8);
    }
    next = from;
}

}  // namespace tersor
