#include "coding/bucket_decode.hpp"

#include <algorithm>
#include <array>
#include <cstring>
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

constexpr std::size_t kPiece = 2048;  // symbols whose tables are looked up at once

// Slots of all tables, one behind the other: bits 0-7 index - first, 8-19 frequency - 1, 20-31
// place.
std::vector<std::uint32_t> make_slots(const BucketModel& model) {
    std::vector<std::uint32_t> slots;
    slots.reserve(model.frequencies.size() << model.scale_bits);
    for (const auto& frequencies : model.frequencies) {
        for (std::uint32_t i = 0; i < frequencies.size(); ++i) {
            for (std::uint32_t place = 0; place < frequencies[i]; ++place) {
                slots.push_back(i | (frequencies[i] - 1) << 8 | place << 20);
            }
        }
    }
    return slots;
}

// What the loops share. Words are read from `next` on; groups start only while next <= limit.
template <unsigned L>
struct Stream {
    alignas(32) std::array<std::uint32_t, L> states;
    const std::uint8_t* next;
    const std::uint8_t* limit;
    const std::uint32_t* slots;
    unsigned scale_bits;
};

// One symbol of the first `lanes` lanes.
template <unsigned L, typename T>
inline void decode_group(Stream<L>& stream, const std::uint16_t* offsets, T base, T* out,
                         unsigned lanes) {
    const std::uint32_t mask = (1u << stream.scale_bits) - 1;
    const std::uint8_t* next = stream.next;
    for (unsigned lane = 0; lane < lanes; ++lane) {
        const std::uint32_t x = stream.states[lane];
        const std::uint32_t slot = stream.slots[offsets[lane] + (x & mask)];
        out[lane] = static_cast<T>(base + static_cast<T>(slot & 0xff));
        const std::uint32_t state =
            ((slot >> 8 & 0xfff) + 1) * (x >> stream.scale_bits) + (slot >> 20);
        // All ones if the state needs a word: arithmetic, because a branch would be a coin toss.
        const std::uint32_t low = 0u - static_cast<std::uint32_t>(state < kRansLow);
        stream.states[lane] = state << (low & 16) | (load_le16(next) & low);
        next += low & 2;
    }
    stream.next = next;
}

template <unsigned L, typename T>
std::size_t decode_scalar(Stream<L>& stream, const std::uint16_t* offsets, T base, T* out,
                          std::size_t groups) {
    std::size_t group = 0;
    for (; group < groups && stream.next <= stream.limit; ++group) {
        decode_group(stream, offsets + group * L, base, out + group * L, L);
    }
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

struct Step {
    const std::uint32_t* slots;
    __m256i mask;
    __m128i scale_bits;

    // Eight lanes one symbol further; returns the slots' entries.
    TERSOR_AVX2 inline __m256i operator()(__m256i& x, const std::uint16_t* offsets,
                                          const std::uint8_t*& next) const {
        const __m256i table =
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets)));
        const __m256i index = _mm256_add_epi32(table, _mm256_and_si256(x, mask));
        const __m256i slot = _mm256_i32gather_epi32(reinterpret_cast<const int*>(slots), index,
                                                    sizeof(std::uint32_t));
        const __m256i less_one =
            _mm256_and_si256(_mm256_srli_epi32(slot, 8), _mm256_set1_epi32(0xfff));
        const __m256i quotient = _mm256_srl_epi32(x, scale_bits);
        const __m256i state =
            _mm256_add_epi32(_mm256_mullo_epi32(less_one, quotient),
                             _mm256_add_epi32(quotient, _mm256_srli_epi32(slot, 20)));
        const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(kRansLow), state);
        const unsigned lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
        const __m256i words =
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
        const __m256i order =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpand.lanes[lanes]));
        const __m256i refilled = _mm256_or_si256(_mm256_slli_epi32(state, 16),
                                                 _mm256_permutevar8x32_epi32(words, order));
        x = _mm256_blendv_epi8(state, refilled, low);
        next += 2 * static_cast<unsigned>(__builtin_popcount(lanes));
        return slot;
    }
};

TERSOR_AVX2 inline void store(std::uint8_t* out, std::uint8_t base, __m256i ab, __m256i cd) {
    // The packs work within 128-bit halves: put the groups of four symbols back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_add_epi8(packed, _mm256_set1_epi8(static_cast<char>(base))));
}

TERSOR_AVX2 inline void store(std::uint16_t* out, std::uint16_t base, __m256i ab, __m256i cd) {
    const __m256i add = _mm256_set1_epi16(static_cast<short>(base));
    __m256i* const to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_add_epi16(_mm256_permute4x64_epi64(ab, 0xd8), add));
    _mm256_storeu_si256(to + 1, _mm256_add_epi16(_mm256_permute4x64_epi64(cd, 0xd8), add));
}

template <typename T>
TERSOR_AVX2 std::size_t decode_avx2(Stream<32>& stream, const std::uint16_t* offsets, T base,
                                    T* out, std::size_t groups) {
    const Step step{stream.slots, _mm256_set1_epi32((1 << stream.scale_bits) - 1),
                    _mm_cvtsi32_si128(static_cast<int>(stream.scale_bits))};
    __m256i* const vectors = reinterpret_cast<__m256i*>(stream.states.data());
    __m256i x[4];
    for (unsigned v = 0; v < 4; ++v) x[v] = _mm256_load_si256(vectors + v);
    const __m256i byte = _mm256_set1_epi32(0xff);
    const std::uint8_t* next = stream.next;
    std::size_t group = 0;
    for (; group < groups && next <= stream.limit; ++group) {
        const std::uint16_t* const tables = offsets + group * 32;
        __m256i slot[4];
#pragma GCC unroll 4
        for (unsigned v = 0; v < 4; ++v) {
            slot[v] = _mm256_and_si256(step(x[v], tables + 8 * v, next), byte);
        }
        store(out + group * 32, base, _mm256_packus_epi32(slot[0], slot[1]),
              _mm256_packus_epi32(slot[2], slot[3]));
    }
    for (unsigned v = 0; v < 4; ++v) _mm256_store_si256(vectors + v, x[v]);
    stream.next = next;
    return group;
}

#endif

template <unsigned L, typename T>
std::size_t decode_groups(Stream<L>& stream, const std::uint16_t* offsets, T base, T* out,
                          std::size_t groups) {
#if defined(TERSOR_AVX2)
    if constexpr (L == 32) {
        if (active_isa() >= Isa::avx2) return decode_avx2(stream, offsets, base, out, groups);
    }
#endif
    return decode_scalar(stream, offsets, base, out, groups);
}

template <unsigned L, typename T>
bool decode_payload(ByteView payload, std::span<T> symbols, SymbolKind kind,
                    const BucketModel& model) {
    if (payload.size() < 4 * L || payload.size() % 2 != 0) return false;
    Stream<L> stream;
    for (unsigned lane = 0; lane < L; ++lane) {
        stream.states[lane] = load_le32(payload.data() + 4 * lane);
        if (stream.states[lane] < kRansLow || stream.states[lane] >> 31) return false;
    }
    const std::vector<std::uint32_t> slots = make_slots(model);
    const TableMap tables(model);
    const T base = from_index<T>(model.first, kind);
    stream.slots = slots.data();
    stream.scale_bits = model.scale_bits;
    stream.next = payload.data() + 4 * L;
    const std::uint8_t* end = payload.data() + payload.size();

    // A group reads at most 2 L bytes, and a vector loads 16 at once. The last bytes are read from
    // a copy with zeros behind it: at most one group reads beyond the end, then decoding stops.
    constexpr std::size_t kSlack = 2 * L + 16;
    std::array<std::uint8_t, 2 * kSlack> tail{};
    bool in_tail = false;
    stream.limit = end - std::min(kSlack, static_cast<std::size_t>(end - stream.next));
    std::array<std::uint16_t, kPiece> offsets;
    for (std::size_t begin = 0; begin < symbols.size(); begin += kPiece) {
        const std::span<T> piece = symbols.subspan(begin, std::min(kPiece, symbols.size() - begin));
        tables.fill(begin, std::span(offsets).first(piece.size()));
        const std::size_t groups = piece.size() / L;
        std::size_t done = 0;
        if (!in_tail && static_cast<std::size_t>(end - stream.next) >= kSlack) {
            done = decode_groups(stream, offsets.data(), base, piece.data(), groups);
        }
        if (!in_tail && static_cast<std::size_t>(end - stream.next) < kSlack) {
            const std::size_t left = static_cast<std::size_t>(end - stream.next);
            std::memcpy(tail.data(), stream.next, left);
            stream.next = tail.data();
            stream.limit = end = tail.data() + left;
            in_tail = true;
        }
        if (in_tail) {
            done += decode_groups(stream, offsets.data() + done * L, base, piece.data() + done * L,
                                  groups - done);
        }
        if (done < groups || stream.next > end) return false;
        const unsigned remainder = static_cast<unsigned>(piece.size() % L);
        if (remainder > 0) {
            if (!in_tail) return false;  // the last group cannot need so much
            decode_group(stream, offsets.data() + groups * L, base, piece.data() + groups * L,
                         remainder);
        }
    }
    return stream.next == end && std::all_of(stream.states.begin(), stream.states.end(),
                                             [](std::uint32_t x) { return x == kRansLow; });
}

}  // namespace

template <typename T>
bool decode_bucket_lanes(ByteView payload, std::span<T> symbols, SymbolKind kind,
                         const BucketModel& model) {
    switch (rans_lanes(symbols.size())) {
        case 1:
            return decode_payload<1>(payload, symbols, kind, model);
        case 4:
            return decode_payload<4>(payload, symbols, kind, model);
        default:
            return decode_payload<32>(payload, symbols, kind, model);
    }
}

template bool decode_bucket_lanes<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind,
                                                const BucketModel&);
template bool decode_bucket_lanes<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind,
                                                 const BucketModel&);

}  // namespace tersor
