#include "coding/float_fields.hpp"

#include <array>
#include <bit>
#include <cstring>

#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#endif

namespace tersor {
namespace {

// The eight bytes at `at`; what lies beyond the end reads as zeros.
inline std::uint64_t load_padded(ByteView bytes, std::size_t at) noexcept {
    if (at + 8 <= bytes.size()) return load_le64(bytes.data() + at);
    std::uint64_t value = 0;
    for (std::size_t i = at; i < bytes.size(); ++i) {
        value |= static_cast<std::uint64_t>(bytes[i]) << (8 * (i - at));
    }
    return value;
}

template <typename Word>
inline Word join(std::uint32_t top, std::uint64_t field, unsigned top_bits,
                 unsigned zeros) noexcept {
    constexpr unsigned kSign = kWordBits<Word> - 1;
    return static_cast<Word>(static_cast<std::uint64_t>(top) << (kSign - top_bits) |
                             field >> 1 << zeros | (field & 1) << kSign);
}

template <typename Word>
void merge_scalar(const std::uint8_t* symbols, std::size_t count, const TopMap& map,
                  ByteView fields, unsigned zeros, std::size_t begin, Word* words) {
    const unsigned width = field_bits<Word>(map.top_bits, zeros);
    const std::uint64_t mask = (std::uint64_t{1} << width) - 1;
    std::uint64_t bit = static_cast<std::uint64_t>(begin) * width;
    for (std::size_t i = 0; i < count; ++i, bit += width) {
        const std::uint64_t field =
            load_padded(fields, static_cast<std::size_t>(bit >> 3)) >> (bit & 7) & mask;
        const std::uint32_t top = symbols[i] == map.zero ? 0 : symbols[i] + map.base;
        words[i] = join<Word>(top, field, map.top_bits, zeros);
    }
}

#if defined(TERSOR_AVX2)

constexpr unsigned kMaxVectorField = 25;  // with up to 7 bits before it, it fits 32

// Takes eight fields of one width out of as many bytes as a field has bits.
struct Unpacker {
    __m256i shuffle;  // the four bytes in which each field starts
    __m256i shift;
    __m256i mask;
    std::size_t upper;  // where the bytes of the fifth field start

    TERSOR_AVX2 explicit Unpacker(unsigned width) : upper(4 * width / 8) {
        alignas(32) std::array<std::uint8_t, 32> bytes{};
        alignas(32) std::array<std::uint32_t, 8> shifts{};
        for (unsigned lane = 0; lane < 8; ++lane) {
            const unsigned bit = lane < 4 ? lane * width : lane * width - 8 * (4 * width / 8);
            for (unsigned b = 0; b < 4; ++b) {
                bytes[4 * lane + b] = static_cast<std::uint8_t>(bit / 8 + b);
            }
            shifts[lane] = bit % 8;
        }
        shuffle = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes.data()));
        shift = _mm256_load_si256(reinterpret_cast<const __m256i*>(shifts.data()));
        mask = _mm256_set1_epi32(static_cast<int>((1u << width) - 1));
    }

    // Reads at most 16 bytes from `from + upper` on.
    TERSOR_AVX2 inline __m256i operator()(const std::uint8_t* from) const {
        const __m256i bytes =
            _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + upper)),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        return _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, shuffle), shift),
                                mask);
    }
};

TERSOR_AVX2 inline std::size_t merge_avx2(const std::uint8_t* symbols, std::size_t count,
                                          const TopMap& map, const std::uint8_t* fields,
                                          const std::uint8_t* end, unsigned zeros,
                                          std::uint32_t* words) {
    const unsigned width = field_bits<std::uint32_t>(map.top_bits, zeros);
    const Unpacker unpack(width);
    const __m256i base = _mm256_set1_epi32(static_cast<int>(map.base));
    const __m256i zero = _mm256_set1_epi32(static_cast<int>(map.zero));
    const __m128i top_shift = _mm_cvtsi32_si128(static_cast<int>(31 - map.top_bits));
    const __m128i zero_shift = _mm_cvtsi32_si128(static_cast<int>(zeros));
    const std::size_t reach = unpack.upper + 16;
    std::size_t i = 0;
    for (; i + 8 <= count && static_cast<std::size_t>(end - fields) >= reach;
         i += 8, fields += width) {
        const __m256i symbol =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(symbols + i)));
        const __m256i top =
            _mm256_andnot_si256(_mm256_cmpeq_epi32(symbol, zero), _mm256_add_epi32(symbol, base));
        const __m256i field = unpack(fields);
        const __m256i rest = _mm256_sll_epi32(_mm256_srli_epi32(field, 1), zero_shift);
        const __m256i word = _mm256_or_si256(
            _mm256_or_si256(_mm256_sll_epi32(top, top_shift), rest), _mm256_slli_epi32(field, 31));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i), word);
    }
    return i;
}

// Fields of a byte, tops that are symbols.
TERSOR_AVX2 inline std::size_t merge_bytes_avx2(const std::uint8_t* symbols, std::size_t count,
                                                const std::uint8_t* fields, std::uint16_t* words) {
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        // In the order that makes the unpacking within halves give whole runs.
        const __m256i top = _mm256_permute4x64_epi64(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols + i)), 0xd8);
        const __m256i field = _mm256_permute4x64_epi64(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(fields + i)), 0xd8);
        const __m256i low = _mm256_unpacklo_epi8(field, top);
        const __m256i high = _mm256_unpackhi_epi8(field, top);
        __m256i* const to = reinterpret_cast<__m256i*>(words + i);
        _mm256_storeu_si256(to,
                            _mm256_or_si256(_mm256_srli_epi16(low, 1), _mm256_slli_epi16(low, 15)));
        _mm256_storeu_si256(
            to + 1, _mm256_or_si256(_mm256_srli_epi16(high, 1), _mm256_slli_epi16(high, 15)));
    }
    return i;
}

TERSOR_AVX2 inline std::size_t merge_avx2(const std::uint8_t* symbols, std::size_t count,
                                          const TopMap& map, const std::uint8_t* fields,
                                          const std::uint8_t* end, unsigned zeros,
                                          std::uint16_t* words) {
    const unsigned width = field_bits<std::uint16_t>(map.top_bits, zeros);
    if (width == 8 && zeros == 0 && map.base == 0) {
        const std::size_t readable = static_cast<std::size_t>(end - fields);
        return merge_bytes_avx2(symbols, count < readable ? count : readable, fields, words);
    }
    const Unpacker unpack(width);
    const __m256i base = _mm256_set1_epi16(static_cast<short>(map.base));
    const __m256i zero = _mm256_set1_epi16(static_cast<short>(map.zero));
    const __m128i top_shift = _mm_cvtsi32_si128(static_cast<int>(15 - map.top_bits));
    const __m128i zero_shift = _mm_cvtsi32_si128(static_cast<int>(zeros));
    const std::size_t reach = width + unpack.upper + 16;
    std::size_t i = 0;
    for (; i + 16 <= count && static_cast<std::size_t>(end - fields) >= reach;
         i += 16, fields += 2 * width) {
        const __m256i symbol =
            _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(symbols + i)));
        const __m256i top =
            _mm256_andnot_si256(_mm256_cmpeq_epi16(symbol, zero), _mm256_add_epi16(symbol, base));
        const __m256i field = _mm256_permute4x64_epi64(
            _mm256_packus_epi32(unpack(fields), unpack(fields + width)), 0xd8);
        const __m256i rest = _mm256_sll_epi16(_mm256_srli_epi16(field, 1), zero_shift);
        const __m256i word = _mm256_or_si256(
            _mm256_or_si256(_mm256_sll_epi16(top, top_shift), rest), _mm256_slli_epi16(field, 15));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i), word);
    }
    return i;
}

// Fields of four or two words at a time, by bit extraction; returns how many words. `to` moves on
// to where the next field starts, whose bits begin at `filled` with what is `pending` below.
template <typename Word>
TERSOR_AVX2 std::size_t pack_bmi2(std::span<const Word> words, unsigned top_bits, unsigned zeros,
                                  std::uint8_t*& to, std::uint64_t& pending, unsigned& filled) {
    constexpr std::size_t kWords = 8 / sizeof(Word);
    constexpr std::uint64_t kOnes = ~std::uint64_t{0} / static_cast<Word>(~Word{0});
    constexpr unsigned kSign = kWordBits<Word> - 1;
    const unsigned width = field_bits<Word>(top_bits, zeros);
    // Words turn left by one bit: the sign is the lowest, above it the mantissa.
    const std::uint64_t field = ((std::uint64_t{1} << (width - 1)) - 1) << (zeros + 1) | 1;
    const std::uint64_t mask = field * kOnes;
    const std::uint64_t upper = ~(kOnes << kSign);
    std::size_t i = 0;
    for (; i + kWords <= words.size(); i += kWords) {
        std::uint64_t chunk;
        std::memcpy(&chunk, words.data() + i, sizeof(chunk));
        const std::uint64_t turned = (chunk & upper) << 1 | (chunk >> kSign & kOnes);
        pending |= _pext_u64(turned, mask) << filled;
        std::memcpy(to, &pending, sizeof(pending));
        filled += static_cast<unsigned>(kWords) * width;
        to += filled / 8;
        pending >>= filled & ~7u;
        filled &= 7;
    }
    return i;
}

#endif

}  // namespace

template <typename Word>
void pack_fields(std::span<const Word> words, unsigned top_bits, unsigned zeros, Bytes& out) {
    constexpr unsigned kSign = kWordBits<Word> - 1;
    const unsigned width = field_bits<Word>(top_bits, zeros);
    const std::uint64_t mask = (std::uint64_t{1} << (kSign - top_bits)) - 1;
    const std::size_t start = out.size();
    const std::size_t bytes = (words.size() * width + 7) / 8;
    out.resize(start + bytes + 8);  // whole words are stored
    std::uint8_t* to = out.data() + start;
    std::uint64_t pending = 0;
    unsigned filled = 0;  // below 8
    std::size_t done = 0;
#if defined(TERSOR_AVX2)
    if constexpr (sizeof(Word) == 2) {
        if (width == 8 && zeros == 0) {  // a byte each: nothing is packed
            for (const Word word : words)
                *to++ = static_cast<std::uint8_t>(word << 1 | word >> kSign);
            out.resize(start + bytes);
            return;
        }
    }
    if constexpr (sizeof(Word) < 8) {
        // What is extracted from eight bytes has to fit behind up to seven bits.
        if (active_isa() >= Isa::avx2 && 8 / sizeof(Word) * width < 57) {
            done = pack_bmi2(words, top_bits, zeros, to, pending, filled);
        }
    }
#endif
    for (const Word word : words.subspan(done)) {
        const std::uint64_t field = (word & mask) >> zeros << 1 | word >> kSign;
        pending |= field << filled;
        std::uint64_t stored = pending;
        if constexpr (std::endian::native == std::endian::big) stored = __builtin_bswap64(stored);
        std::memcpy(to, &stored, sizeof(stored));
        filled += width;
        to += filled / 8;
        pending = filled < 64 ? pending >> (filled & ~7u) : 0;
        filled &= 7;
    }
    out.resize(start + bytes);
}

template <typename Word>
void merge_fields(std::span<const std::uint8_t> symbols, const TopMap& map, ByteView fields,
                  unsigned zeros, std::size_t begin, Word* words) {
    std::size_t done = 0;
#if defined(TERSOR_AVX2)
    if constexpr (sizeof(Word) == 2 || sizeof(Word) == 4) {
        const unsigned width = field_bits<Word>(map.top_bits, zeros);
        if (width <= kMaxVectorField && active_isa() >= Isa::avx2) {
            // Vectors start where a field starts with a byte.
            const std::size_t head = -begin & 7;
            if (head < symbols.size()) {
                merge_scalar(symbols.data(), head, map, fields, zeros, begin, words);
                const std::size_t at = (begin + head) / 8 * width;
                done = head;
                if (at < fields.size()) {
                    done += merge_avx2(symbols.data() + head, symbols.size() - head, map,
                                       fields.data() + at, fields.data() + fields.size(), zeros,
                                       words + head);
                }
            }
        }
    }
#endif
    merge_scalar(symbols.data() + done, symbols.size() - done, map, fields, zeros, begin + done,
                 words + done);
}

template void pack_fields<std::uint16_t>(std::span<const std::uint16_t>, unsigned, unsigned,
                                         Bytes&);
template void pack_fields<std::uint32_t>(std::span<const std::uint32_t>, unsigned, unsigned,
                                         Bytes&);
template void pack_fields<std::uint64_t>(std::span<const std::uint64_t>, unsigned, unsigned,
                                         Bytes&);
template void merge_fields<std::uint16_t>(std::span<const std::uint8_t>, const TopMap&, ByteView,
                                          unsigned, std::size_t, std::uint16_t*);
template void merge_fields<std::uint32_t>(std::span<const std::uint8_t>, const TopMap&, ByteView,
                                          unsigned, std::size_t, std::uint32_t*);
template void merge_fields<std::uint64_t>(std::span<const std::uint8_t>, const TopMap&, ByteView,
                                          unsigned, std::size_t, std::uint64_t*);

}  // namespace tersor
