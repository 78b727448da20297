#include "coding/register_encode.hpp"

#include <algorithm>
#include <cstring>

#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#endif

namespace tersor {
namespace {

// The first `symbols.size()` lanes give one symbol each, the last lane first.
std::uint8_t* encode_scalar(const RegisterEncodeTable& table, RegisterStates& states,
                            std::span<const std::uint8_t> symbols, std::uint8_t* out) {
    for (std::size_t lane = symbols.size(); lane-- > 0;) {
        const RegisterEncodeTable::Step step = table.steps[symbols[lane]];
        std::uint32_t x = states.low[lane] | static_cast<std::uint32_t>(states.high[lane]) << 8;
        // Always store, move only if needed: no branch to mispredict.
        out[-1] = static_cast<std::uint8_t>(x);
        const std::uint32_t full = x >= step.limit;
        out -= full;
        x >>= 8 * full;
        const auto quotient =
            static_cast<std::uint32_t>(static_cast<std::uint64_t>(x) * step.reciprocal >> 24);
        states.high[lane] = static_cast<std::uint8_t>(quotient);
        states.low[lane] = table.slots[step.first + x - quotient * step.frequency];
    }
    return out;
}

#if defined(TERSOR_AVX2)

// For a mask of eight lanes that give a byte away: which lanes do, in the last places.
struct CompressTable {
    alignas(64) std::uint64_t order[256];
    constexpr explicit CompressTable(unsigned first) : order{} {
        for (unsigned mask = 0; mask < 256; ++mask) {
            for (unsigned lane = 0; lane < 8; ++lane) {
                if (mask >> lane & 1) {
                    order[mask] = order[mask] >> 8 | static_cast<std::uint64_t>(first + lane) << 56;
                }
            }
        }
    }
};
constexpr CompressTable kCompressLow(0);
constexpr CompressTable kCompressHigh(8);  // for the upper half of a shuffle of 16 bytes

TERSOR_AVX2 inline __m128i load_halves(const std::uint64_t* low, const std::uint64_t* high) {
    return _mm_set_epi64x(static_cast<long long>(*high), static_cast<long long>(*low));
}

TERSOR_AVX2 inline void store8(std::uint8_t* to, long long bytes) {
    std::memcpy(to, &bytes, sizeof(bytes));
}

// Writes the bytes of the lanes in `mask` before `out`, the last lane's last. What is written
// before them is overwritten later.
TERSOR_AVX2 inline std::uint8_t* give_bytes(std::uint8_t* out, __m256i bytes, std::uint32_t mask) {
    const __m256i order = _mm256_set_m128i(
        load_halves(kCompressLow.order + (mask >> 16 & 0xff), kCompressHigh.order + (mask >> 24)),
        load_halves(kCompressLow.order + (mask & 0xff), kCompressHigh.order + (mask >> 8 & 0xff)));
    const __m256i packed = _mm256_shuffle_epi8(bytes, order);
    const __m128i low = _mm256_castsi256_si128(packed);
    const __m128i high = _mm256_extracti128_si256(packed, 1);
    std::uint8_t* const third = out - __builtin_popcount(mask & 0xff000000);
    std::uint8_t* const second = out - __builtin_popcount(mask & 0xffff0000);
    std::uint8_t* const first = out - __builtin_popcount(mask & 0xffffff00);
    store8(out - 8, _mm_extract_epi64(high, 1));
    store8(third - 8, _mm_cvtsi128_si64(high));
    store8(second - 8, _mm_extract_epi64(low, 1));
    store8(first - 8, _mm_cvtsi128_si64(low));
    return out - __builtin_popcount(mask);
}

TERSOR_AVX2 inline __m256i both_halves(const std::uint8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

// A table of 16 or of 32 bytes; `upper` has its sign bit set where the index is 16 or more.
template <bool kWide>
TERSOR_AVX2 inline __m256i look_up(const std::uint8_t* table, __m256i index, __m256i upper) {
    const __m256i low = _mm256_shuffle_epi8(both_halves(table), index);
    if constexpr (!kWide) return low;
    return _mm256_blendv_epi8(low, _mm256_shuffle_epi8(both_halves(table + 16), index), upper);
}

// A table of 256 bytes: by the low four bits in each of 16 parts, then the parts by the high bits.
TERSOR_AVX2 inline __m256i look_up256(const std::uint8_t* table, __m256i index) {
    const __m256i place = _mm256_and_si256(index, _mm256_set1_epi8(15));
    const __m256i bit4 = _mm256_slli_epi16(index, 3);
    const __m256i bit5 = _mm256_slli_epi16(index, 2);
    const __m256i bit6 = _mm256_slli_epi16(index, 1);
    const auto quarter = [&](const std::uint8_t* part) TERSOR_AVX2 {
        const __m256i low = look_up<true>(part, place, bit4);
        return _mm256_blendv_epi8(low, look_up<true>(part + 32, place, bit4), bit5);
    };
    const __m256i low = _mm256_blendv_epi8(quarter(table), quarter(table + 64), bit6);
    const __m256i high = _mm256_blendv_epi8(quarter(table + 128), quarter(table + 192), bit6);
    return _mm256_blendv_epi8(low, high, index);
}

// Bytes as words: even ones and odd ones, from their low and their high bytes; and back.
struct Words {
    __m256i even;
    __m256i odd;
};

TERSOR_AVX2 inline Words to_words(__m256i low, __m256i high) {
    const __m256i odd_byte = _mm256_set1_epi16(static_cast<short>(0xff00));
    return {_mm256_blendv_epi8(low, _mm256_slli_epi16(high, 8), odd_byte),
            _mm256_blendv_epi8(_mm256_srli_epi16(low, 8), high, odd_byte)};
}

TERSOR_AVX2 inline Words to_words(__m256i bytes) {
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
}

TERSOR_AVX2 inline __m256i to_bytes(Words words) {
    return _mm256_or_si256(words.even, _mm256_slli_epi16(words.odd, 8));
}

// word / f and word % f for words < 2^8 f. The reciprocals were rounded down: the quotient is right
// or one too small.
TERSOR_AVX2 inline __m256i divide(__m256i word, __m256i f, __m256i reciprocal, __m256i& rest) {
    const __m256i quotient = _mm256_mulhi_epu16(word, reciprocal);
    const __m256i over = _mm256_sub_epi16(word, _mm256_mullo_epi16(quotient, f));
    const __m256i less = _mm256_sub_epi16(over, f);
    rest = _mm256_min_epu16(over, less);
    // -1 where it was right already.
    const __m256i right = _mm256_srai_epi16(less, 15);
    return _mm256_sub_epi16(_mm256_add_epi16(quotient, right), _mm256_set1_epi16(-1));
}

template <bool kWide>
TERSOR_AVX2 inline std::uint8_t* encode32(const RegisterEncodeTable& table, __m256i id,
                                          __m256i& low, __m256i& high, std::uint8_t* out) {
    const __m256i upper = kWide ? _mm256_slli_epi16(id, 3) : id;
    const __m256i f = look_up<kWide>(table.frequencies.data(), id, upper);
    const __m256i full = _mm256_cmpeq_epi8(_mm256_max_epu8(high, f), high);
    out = give_bytes(out, low, static_cast<std::uint32_t>(_mm256_movemask_epi8(full)));
    const Words x = to_words(_mm256_blendv_epi8(low, high, full), _mm256_andnot_si256(full, high));
    const Words reciprocal = to_words(look_up<kWide>(table.reciprocals_low.data(), id, upper),
                                      look_up<kWide>(table.reciprocals_high.data(), id, upper));
    const Words divisor = to_words(f);
    Words rest;
    Words quotient;
    quotient.even = divide(x.even, divisor.even, reciprocal.even, rest.even);
    quotient.odd = divide(x.odd, divisor.odd, reciprocal.odd, rest.odd);
    const __m256i first = look_up<kWide>(table.first.data(), id, upper);
    high = to_bytes(quotient);
    low = look_up256(table.slots.data(), _mm256_add_epi8(first, to_bytes(rest)));
    return out;
}

TERSOR_AVX2 std::size_t window_ids_avx2(const RegisterEncodeTable& table,
                                        std::span<const std::uint8_t> symbols, std::uint8_t* ids) {
    const __m256i window = _mm256_set1_epi8(static_cast<char>(table.window));
    const __m256i escape = _mm256_set1_epi8(static_cast<char>(table.escape_id));
    std::size_t i = 0;
    for (; i + 32 <= symbols.size(); i += 32) {
        const __m256i place = _mm256_sub_epi8(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols.data() + i)), window);
        const __m256i inside =
            look_up<true>(table.window_ids.data(), place, _mm256_slli_epi16(place, 3));
        const __m256i beyond =
            _mm256_cmpeq_epi8(_mm256_max_epu8(place, _mm256_set1_epi8(32)), place);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + i),
                            _mm256_blendv_epi8(inside, escape, beyond));
    }
    return i;
}

#endif

// The ids of all symbols.
void find_ids(const RegisterEncodeTable& table, std::span<const std::uint8_t> symbols,
              std::uint8_t* ids) {
    std::size_t i = 0;
#if defined(TERSOR_AVX2)
    if (table.has_window && active_isa() >= Isa::avx2) i = window_ids_avx2(table, symbols, ids);
#endif
    for (; i < symbols.size(); ++i) ids[i] = table.ids[symbols[i]];
}

constexpr std::size_t kPiece = 32 * kRegisterLanes;  // whose ids are looked up at a time

#if defined(TERSOR_AVX2)

// Whole groups, the last one first.
template <bool kWide, unsigned kVectors>
TERSOR_AVX2 std::uint8_t* encode_avx2(const RegisterEncodeTable& table, RegisterStates& states,
                                      std::span<const std::uint8_t> symbols, std::uint8_t* out) {
    alignas(32) std::array<std::uint8_t, kPiece> ids;
    __m256i low[kVectors];
    __m256i high[kVectors];
    for (unsigned v = 0; v < kVectors; ++v) {
        low[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(states.low.data()) + v);
        high[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(states.high.data()) + v);
    }
    for (std::size_t end = symbols.size(); end > 0;) {
        const std::size_t begin = end - std::min(end, kPiece);
        find_ids(table, symbols.subspan(begin, end - begin), ids.data());
        for (std::size_t i = end - begin; i > 0; i -= 32 * kVectors) {
            const auto* group = reinterpret_cast<const __m256i*>(&ids[i - 32 * kVectors]);
#pragma GCC unroll 4
            for (unsigned n = 1; n <= kVectors; ++n) {
                const unsigned v = kVectors - n;
                out = encode32<kWide>(table, _mm256_load_si256(group + v), low[v], high[v], out);
            }
        }
        end = begin;
    }
    for (unsigned v = 0; v < kVectors; ++v) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(states.low.data()) + v, low[v]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(states.high.data()) + v, high[v]);
    }
    return out;
}

using Encode = decltype(&encode_avx2<false, 1>);

Encode choose_avx2(bool wide, unsigned lanes) {
    switch (lanes) {
        case 32:
            return wide ? encode_avx2<true, 1> : encode_avx2<false, 1>;
        case 64:
            return wide ? encode_avx2<true, 2> : encode_avx2<false, 2>;
        default:
            return wide ? encode_avx2<true, 4> : encode_avx2<false, 4>;
    }
}

#endif

}  // namespace

RegisterEncodeTable make_encode_table(const RegisterTable& table, SymbolKind kind) {
    RegisterEncodeTable encode;
    const AliasLayout layout = lay_out(table);
    std::array<RegisterEncodeTable::Step, kMaxIds> steps{};
    unsigned first = 0;
    for (unsigned id = 0; id < table.ids; ++id) {
        const unsigned f = table.frequencies[id];
        steps[id] = {((1u << 24) + f - 1) / f, static_cast<std::uint16_t>(f << 8),
                     static_cast<std::uint8_t>(f), static_cast<std::uint8_t>(first)};
        const unsigned reciprocal = std::min(0xffffu, 0x10000u / f);
        encode.frequencies[id] = static_cast<std::uint8_t>(f);
        encode.reciprocals_low[id] = static_cast<std::uint8_t>(reciprocal);
        encode.reciprocals_high[id] = static_cast<std::uint8_t>(reciprocal >> 8);
        encode.first[id] = static_cast<std::uint8_t>(first);
        first += f;
    }
    for (unsigned slot = 0; slot < kSlots; ++slot) {
        const unsigned bucket = slot / layout.width;
        const unsigned place = slot % layout.width;
        const unsigned own = layout.own[bucket];
        const unsigned at = place < own ? steps[bucket].first + place
                                        : steps[layout.alias[bucket]].first +
                                              layout.first_rank[bucket] + place - own;
        encode.slots[at] = static_cast<std::uint8_t>(slot);
    }
    const auto assign = [&](std::size_t symbol, unsigned id) {
        encode.steps[symbol] = steps[id];
        encode.ids[symbol] = static_cast<std::uint8_t>(id);
    };
    if (table.escape) {
        for (std::size_t symbol = 0; symbol < 256; ++symbol) assign(symbol, table.escape_id());
    }
    const unsigned proper = table.ids - table.escape;
    encode.window = from_index<std::uint8_t>(table.symbols[0], kind);
    encode.has_window = table.symbols[proper - 1] - table.symbols[0] < 32;
    encode.escape_id = static_cast<std::uint8_t>(table.escape_id());
    encode.window_ids.fill(encode.escape_id);
    for (unsigned id = 0; id < proper; ++id) {
        assign(from_index<std::uint8_t>(table.symbols[id], kind), id);
        const unsigned place = table.symbols[id] - table.symbols[0];
        if (encode.has_window) encode.window_ids[place] = static_cast<std::uint8_t>(id);
    }
    return encode;
}

void collect_escapes(const RegisterEncodeTable& table, std::span<const std::uint8_t> symbols,
                     std::uint8_t* out) {
    std::array<std::uint8_t, kPiece> ids;
    while (!symbols.empty()) {
        const auto piece = symbols.first(std::min(symbols.size(), kPiece));
        find_ids(table, piece, ids.data());
        std::size_t at = 0;
        while (const void* found =
                   std::memchr(ids.data() + at, table.escape_id, piece.size() - at)) {
            at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - ids.data());
            *out++ = piece[at++];
        }
        symbols = symbols.subspan(piece.size());
    }
}

std::uint8_t* encode_register_lanes(const RegisterEncodeTable& table, RegisterStates& states,
                                    std::span<const std::uint8_t> symbols, std::uint8_t* end) {
    const std::size_t whole = symbols.size() / states.lanes * states.lanes;
    std::uint8_t* out = encode_scalar(table, states, symbols.subspan(whole), end);
#if defined(TERSOR_AVX2)
    if (active_isa() >= Isa::avx2) {
        const bool wide = table.frequencies[16] > 0;
        return choose_avx2(wide, states.lanes)(table, states, symbols.first(whole), out);
    }
#endif
    for (std::size_t i = whole; i > 0; i -= states.lanes) {
        out = encode_scalar(table, states, symbols.subspan(i - states.lanes, states.lanes), out);
    }
    return out;
}

}  // namespace tersor
