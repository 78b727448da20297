#include "coding/rans_decode.hpp"

#include <array>
#include <vector>

#include "coding/rans.hpp"
#include "coding/rans_avx2.hpp"
#include "coding/rans_state.hpp"
#include "cpu.hpp"

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
            x[lane] = refill(state, next);
        }
    }
    for (unsigned lane = 0; lane < L; ++lane) states[lane] = x[lane];
    words.next = next;
    return group;
}

#if defined(TERSOR_AVX2)

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
    x = refill8(state, next);
    return entry;
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
    std::array<std::uint32_t, L> states;
    if (payload.size() % 2 != 0 || !load_states(payload, states)) return false;
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
    return rest.next == rest.end && at_start(states);
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
