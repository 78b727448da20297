#include "coding/planes.hpp"

#include <algorithm>
#include <bit>

namespace tersor {
namespace {

// Words of a block stay in the first-level cache while their planes are taken out one by one.
constexpr std::size_t kBlock = 1024;

template <WordTransform transform, typename Word>
constexpr Word forward(Word w) noexcept {
    constexpr unsigned kTop = 8 * sizeof(Word) - 1;
    const Word top = static_cast<Word>(w >> kTop);
    if constexpr (transform == WordTransform::rotate) return static_cast<Word>(w << 1 | top);
    if constexpr (transform == WordTransform::zigzag) {
        return static_cast<Word>(static_cast<Word>(w << 1) ^ static_cast<Word>(0u - top));
    }
    return w;
}

template <WordTransform transform, typename Word>
constexpr Word backward(Word w) noexcept {
    constexpr unsigned kTop = 8 * sizeof(Word) - 1;
    const Word bottom = static_cast<Word>(w & 1u);
    const Word half = static_cast<Word>(w >> 1);
    if constexpr (transform == WordTransform::rotate) {
        return static_cast<Word>(half | static_cast<Word>(bottom << kTop));
    }
    if constexpr (transform == WordTransform::zigzag) {
        return static_cast<Word>(half ^ static_cast<Word>(0u - bottom));
    }
    return w;
}

template <WordTransform transform, typename Word>
void split(const Word* words, std::size_t count, std::uint8_t* planes) {
    Word block[kBlock];
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
        const std::size_t n = std::min(kBlock, count - begin);
        for (std::size_t i = 0; i < n; ++i) block[i] = forward<transform>(words[begin + i]);
        for (unsigned p = 0; p < sizeof(Word); ++p) {
            const unsigned shift = 8 * (static_cast<unsigned>(sizeof(Word)) - 1 - p);
            std::uint8_t* const plane = planes + p * count + begin;
            for (std::size_t i = 0; i < n; ++i)
                plane[i] = static_cast<std::uint8_t>(block[i] >> shift);
        }
    }
}

template <WordTransform transform, typename Word>
void merge(const std::uint8_t* planes, std::size_t count, Word* words) {
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
        const std::size_t n = std::min(kBlock, count - begin);
        Word* const block = words + begin;
        for (std::size_t i = 0; i < n; ++i) block[i] = planes[begin + i];
        for (unsigned p = 1; p < sizeof(Word); ++p) {
            const std::uint8_t* const plane = planes + p * count + begin;
            for (std::size_t i = 0; i < n; ++i) {
                block[i] = static_cast<Word>(static_cast<std::uint64_t>(block[i]) << 8 | plane[i]);
            }
        }
        for (std::size_t i = 0; i < n; ++i) block[i] = backward<transform>(block[i]);
    }
}

}  // namespace

template <typename Word>
void split_planes(const Word* words, std::size_t count, WordTransform transform,
                  std::uint8_t* planes) {
    switch (transform) {
        case WordTransform::rotate:
            return split<WordTransform::rotate>(words, count, planes);
        case WordTransform::zigzag:
            return split<WordTransform::zigzag>(words, count, planes);
        default:
            return split<WordTransform::none>(words, count, planes);
    }
}

template <typename Word>
void merge_planes(const std::uint8_t* planes, std::size_t count, WordTransform transform,
                  Word* words) {
    switch (transform) {
        case WordTransform::rotate:
            return merge<WordTransform::rotate>(planes, count, words);
        case WordTransform::zigzag:
            return merge<WordTransform::zigzag>(planes, count, words);
        default:
            return merge<WordTransform::none>(planes, count, words);
    }
}

template void split_planes<std::uint8_t>(const std::uint8_t*, std::size_t, WordTransform,
                                         std::uint8_t*);
template void split_planes<std::uint16_t>(const std::uint16_t*, std::size_t, WordTransform,
                                          std::uint8_t*);
template void split_planes<std::uint32_t>(const std::uint32_t*, std::size_t, WordTransform,
                                          std::uint8_t*);
template void split_planes<std::uint64_t>(const std::uint64_t*, std::size_t, WordTransform,
                                          std::uint8_t*);
template void merge_planes<std::uint8_t>(const std::uint8_t*, std::size_t, WordTransform,
                                         std::uint8_t*);
template void merge_planes<std::uint16_t>(const std::uint8_t*, std::size_t, WordTransform,
                                          std::uint16_t*);
template void merge_planes<std::uint32_t>(const std::uint8_t*, std::size_t, WordTransform,
                                          std::uint32_t*);
template void merge_planes<std::uint64_t>(const std::uint8_t*, std::size_t, WordTransform,
                                          std::uint64_t*);

}  // namespace tersor
