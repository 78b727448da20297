#include "disguise/distinct_words.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tersor::disguise {
namespace {

// Unsigned keys in the order of the words.
template <typename Word>
Word order_key(Word word, Order order) noexcept {
    constexpr Word top = static_cast<Word>(Word{1} << (std::numeric_limits<Word>::digits - 1));
    if (order == Order::unsigned_integer) return word;
    if (order == Order::signed_integer) return static_cast<Word>(word ^ top);
    return static_cast<Word>((word & top) != 0 ? ~word : (word | top));
}

}  // namespace

template <typename Word>
std::optional<size_t> distinct_words(std::span<const Word> words, Order order, bool skip_zeros,
                                     std::span<Word> book, std::span<uint8_t> codes) noexcept {
    const size_t limit = std::min<size_t>(book.size(), 256);
    WordSet<Word> found;
    for (size_t i = 0; i < words.size(); ++i) {
        if (i > 0 && words[i] == words[i - 1]) {
            codes[i] = codes[i - 1];
        } else if (skip_zeros && words[i] == 0) {
            codes[i] = 0;
        } else {
            codes[i] = static_cast<uint8_t>(found.insert(words[i]));
            if (found.size() > limit) return std::nullopt;
        }
    }
    std::array<uint16_t, 256> sorted;
    const auto end = sorted.begin() + found.size();
    std::iota(sorted.begin(), end, uint16_t{0});
    std::sort(sorted.begin(), end, [&](uint16_t a, uint16_t b) {
        return order_key(found[a], order) < order_key(found[b], order);
    });
    std::array<uint8_t, 256> place{};
    for (size_t rank = 0; rank < found.size(); ++rank) {
        book[rank] = found[sorted[rank]];
        place[sorted[rank]] = static_cast<uint8_t>(rank);
    }
    for (size_t i = 0; i < words.size(); ++i) {
        codes[i] = skip_zeros && words[i] == 0 ? uint8_t{0} : place[codes[i]];
    }
    return found.size();
}

#define TERSOR_INSTANTIATE(Word)                                                      \
    template std::optional<size_t> distinct_words(std::span<const Word>, Order, bool, \
                                                  std::span<Word>, std::span<uint8_t>) noexcept;
TERSOR_INSTANTIATE(uint8_t)
TERSOR_INSTANTIATE(uint16_t)
TERSOR_INSTANTIATE(uint32_t)
TERSOR_INSTANTIATE(uint64_t)
#undef TERSOR_INSTANTIATE

}  // namespace tersor::disguise
