#include "coding/rans_decode.hpp"

#include <array>
#include <vector>

#include "coding/rans.hpp"
#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#endif

namespace tersor {
namespace {

// What a slot of the range 0 .. 2^scale - 1 says: its symbol, the symbol's frequency, the slot's
// place in it. Narrow tables (alphabets up to 256, scale up to 12): bits 0-7 symbol, 8-19
// frequency, 20-31 place.
struct NarrowTable {
    using Entry = std::uint32_t;
    static constexpr unsigned kFrequencyShift = 8;
    static constexpr unsigned kPlaceShift = 20;
    static constexpr Entry kFieldMask = 0xfff;
    static constexpr Entry kSymbolMask = 0xff;
};

// Wide tables: bits 0-15 symbol, 16-31 frequency, 32-47 place.
struct WideTable {
    using Entry = std::uint64_t;
    static constexpr unsigned kFrequencyShift = 16;
    static constexpr unsigned kPlaceShift = 32;
    static constexpr Entry kFieldMask = 0xffff;
    static constexpr Entry kSymbolMask = 0xffff;
};

// Symbols in the table are relative to `base`, the symbol of the alphabet's first index.
template <typename Format>
std::vector<typename Format::Entry> make_slots(const FrequencyTable& table) {
    using Entry = typename Format::Entry;
    std::vector<Entry> slots;
    slots.reserve(std::size_t{1} << table.scale_bits);
    for (std::size_t i = 0; i < table.frequencies.size(); ++i) {
        const Entry f = table.frequencies[i];
        for (Entry place = 0; place < f; ++place) {
            slots.push_back(static_cast<Entry>(i << table.alphabet.split) |
                            f << Format::kFrequencyShift | place << Format::kPlaceShift);
        }
    }
    return slots;
}

// Words still to read. The loops check the position once a group of L symbols, against a limit
// behind which what one group may load is still readable.
struct Words {
    const std::uint8_t* next;
    const std::uint8_t* end;
};

// Decodes up to `groups` groups of one symbol a lane, while the position is at most `limit`;
// returns how many.
template <typename Format, unsigned L, typename T>
std::size_t decode_groups_scalar(Words& words, std::span<std::uint32_t, L> states,
                                 const typename Format::Entry* slots, unsigned scale_bits, T base,
                                 T* out, std::size_t groups, const std::uint8_t* limit) {
    std::array<std::uint32_t, L> x;
    for (unsigned lane = 0; lane < L; ++lane) x[lane] = states[lane];
    const std::uint32_t mask = (1u << scale_bits) - 1;
    const std::uint8_t* next = words.next;
    std::size_t group = 0;
    for (; group < groups && next <= limit; ++group) {
        for (unsigned lane = 0; lane < L; ++lane) {
            const auto entry = slots[x[lane] & mask];
            out[group * L + lane] =
                static_cast<T>(base + static_cast<T>(entry & Format::kSymbolMask));
            const std::uint32_t f =
                static_cast<std::uint32_t>(entry >> Format::kFrequencyShift & Format::kFieldMask);
            const std::uint32_t state = f * (x[lane] >> scale_bits) +
                                        static_cast<std::uint32_t>(entry >> Format::kPlaceShift);
            // All ones if the state needs a word: arithmetic, because a branch would be a coin
            // toss.
            const std::uint32_t low = 0u - static_cast<std::uint32_t>(state < kRansLow);
            x[lane] = state << (low & 16) | (load_le16(next) & low);
            next += low & 2;
        }
    }
    for (unsigned lane = 0; lane < L; ++lane) states[lane] = x[lane];
    words.next = next;
    return group;
}

#if defined(TERSOR_AVX2)

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
constexpr ExpandTable kExpand;

// Four lookups. Through general registers: the gather instructions of the processors at hand are
// slower.
TERSOR_AVX2 inline __m128i look_up4(const std::uint32_t* slots, __m128i index) {
    const auto low = static_cast<std::uint64_t>(_mm_cvtsi128_si64(index));
    const auto high = static_cast<std::uint64_t>(_mm_extract_epi64(index, 1));
    __m128i entries = _mm_cvtsi32_si128(static_cast<int>(slots[low & 0xffffffff]));
    entries = _mm_insert_epi32(entries, static_cast<int>(slots[low >> 32]), 1);
    entries = _mm_insert_epi32(entries, static_cast<int>(slots[high & 0xffffffff]), 2);
    return _mm_insert_epi32(entries, static_cast<int>(slots[high >> 32]), 3);
}

TERSOR_AVX2 inline __m256i look_up8(const std::uint32_t* slots, __m256i index) {
    return _mm256_set_m128i(look_up4(slots, _mm256_extracti128_si256(index, 1)),
                            look_up4(slots, _mm256_castsi256_si128(index)));
}

// Eight lanes one symbol further; returns the table entries.
TERSOR_AVX2 inline __m256i step_avx2(__m256i& x, const std::uint32_t* slots, __m256i mask,
                                     __m128i scale_bits, const std::uint8_t*& next) {
    const __m256i entry = look_up8(slots, _mm256_and_si256(x, mask));
    const __m256i f = _mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(0xfff));
    const __m256i state = _mm256_add_epi32(_mm256_mullo_epi32(f, _mm256_srl_epi32(x, scale_bits)),
                                           _mm256_srli_epi32(entry, 20));
    const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(kRansLow), state);
    const unsigned lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
    const __m256i words =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpand.lanes[lanes]));
    const __m256i refilled =
        _mm256_or_si256(_mm256_slli_epi32(state, 16), _mm256_permutevar8x32_epi32(words, order));
    x = _mm256_blendv_epi8(state, refilled, low);
    next += 2 * static_cast<unsigned>(__builtin_popcount(lanes));
    return entry;
}

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

template <typename T>
TERSOR_AVX2 std::size_t decode_groups_avx2(Words& words, std::span<std::uint32_t, 32> states,
                                           const std::uint32_t* slots, unsigned scale_bits, T base,
                                           T* out, std::size_t groups, const std::uint8_t* limit) {
    __m256i* const vectors = reinterpret_cast<__m256i*>(states.data());
    __m256i a = _mm256_loadu_si256(vectors);
    __m256i b = _mm256_loadu_si256(vectors + 1);
    __m256i c = _mm256_loadu_si256(vectors + 2);
    __m256i d = _mm256_loadu_si256(vectors + 3);
    const __m256i mask = _mm256_set1_epi32((1 << scale_bits) - 1);
    const __m128i scale = _mm_cvtsi32_si128(static_cast<int>(scale_bits));
    const std::uint8_t* next = words.next;
    std::size_t group = 0;
    for (; group < groups && next <= limit; ++group) {
        const __m256i ea = step_avx2(a, slots, mask, scale, next);
        const __m256i eb = step_avx2(b, slots, mask, scale, next);
        const __m256i ec = step_avx2(c, slots, mask, scale, next);
        const __m256i ed = step_avx2(d, slots, mask, scale, next);
        store_symbols(out + group * 32, base, ea, eb, ec, ed);
    }
    _mm256_storeu_si256(vectors, a);
    _mm256_storeu_si256(vectors + 1, b);
    _mm256_storeu_si256(vectors + 2, c);
    _mm256_storeu_si256(vectors + 3, d);
    words.next = next;
    return group;
}

#endif

template <typename Format, unsigned L, typename T>
std::size_t decode_groups(Words& words, std::span<std::uint32_t, L> states,
                          const typename Format::Entry* slots, unsigned scale_bits, T base, T* out,
                          std::size_t groups, const std::uint8_t* limit) {
#if defined(TERSOR_AVX2)
    if constexpr (L == 32 && sizeof(typename Format::Entry) == 4) {
        if (active_isa() >= Isa::avx2) {
            return decode_groups_avx2(words, states, slots, scale_bits, base, out, groups, limit);
        }
    }
#endif
    return decode_groups_scalar<Format, L>(words, states, slots, scale_bits, base, out, groups,
                                           limit);
}

template <typename Format, unsigned L, typename T>
bool decode_payload(ByteView payload, std::span<T> symbols, SymbolKind kind,
                    const FrequencyTable& table) {
    if (payload.size() < 4 * L || payload.size() % 2 != 0) return false;
    std::array<std::uint32_t, L> states;
    for (unsigned lane = 0; lane < L; ++lane) {
        states[lane] = load_le32(payload.data() + 4 * lane);
        if (states[lane] < kRansLow || states[lane] >> 31) return false;
    }
    const std::span<std::uint32_t, L> lanes(states);
    const auto slots = make_slots<Format>(table);
    const T base = from_index<T>(table.alphabet.first << table.alphabet.split, kind);
    const std::size_t groups = symbols.size() / L;
    std::size_t done = 0;

    // A group reads at most 2 L bytes, and a vector loads 16 at once.
    constexpr std::size_t kSlack = 2 * L + 16;
    Words words{payload.data() + 4 * L, payload.data() + payload.size()};
    if (static_cast<std::size_t>(words.end - words.next) >= kSlack) {
        done = decode_groups<Format, L>(words, lanes, slots.data(), table.scale_bits, base,
                                        symbols.data(), groups, words.end - kSlack);
    }
    // The rest from a copy with zeros behind it: at most one group reads beyond the end, then it
    // stops.
    const std::size_t left = static_cast<std::size_t>(words.end - words.next);
    if (left > kSlack) return false;  // all groups are done, and a partial one cannot need so much
    std::array<std::uint8_t, 2 * kSlack> tail{};
    std::memcpy(tail.data(), words.next, left);
    Words rest{tail.data(), tail.data() + left};
    T* out = symbols.data() + done * L;
    const std::size_t more = decode_groups<Format, L>(rest, lanes, slots.data(), table.scale_bits,
                                                      base, out, groups - done, rest.end);
    if (done + more < groups || rest.next > rest.end) return false;
    out += more * L;
    const std::size_t remainder = symbols.size() % L;
    for (std::size_t lane = 0; lane < remainder; ++lane) {
        decode_groups_scalar<Format, 1>(rest, lanes.subspan(lane).template first<1>(), slots.data(),
                                        table.scale_bits, base, out + lane, 1, rest.end);
    }
    if (rest.next != rest.end) return false;
    for (const std::uint32_t state : states) {
        if (state != kRansLow) return false;
    }
    return true;
}

template <typename Format, typename T>
bool decode_format(ByteView payload, std::span<T> symbols, SymbolKind kind,
                   const FrequencyTable& table) {
    switch (rans_lanes(symbols.size())) {
        case 1:
            return decode_payload<Format, 1>(payload, symbols, kind, table);
        case 4:
            return decode_payload<Format, 4>(payload, symbols, kind, table);
        default:
            return decode_payload<Format, 32>(payload, symbols, kind, table);
    }
}

}  // namespace

template <typename T>
bool decode_lanes(ByteView payload, std::span<T> symbols, SymbolKind kind,
                  const FrequencyTable& table) {
    if (table.alphabet.size <= 256 && table.alphabet.split == 0) {
        return decode_format<NarrowTable>(payload, symbols, kind, table);
    }
    return decode_format<WideTable>(payload, symbols, kind, table);
}

template bool decode_lanes<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind,
                                         const FrequencyTable&);
template bool decode_lanes<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind,
                                          const FrequencyTable&);

}  // namespace tersor
