// The distinct bit patterns of an array, if they are few.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace tersor::disguise {

// How words are ordered: as numbers of that kind, NaNs by their bits.
enum class Order { unsigned_integer, signed_integer, floating };

// A set of at most `kCapacity` words that numbers them in the order in which they came.
template <typename Word>
class WordSet {
  public:
    static constexpr size_t kCapacity = 512;

    WordSet() noexcept { clear(); }

    void clear() noexcept {
        slots_.fill(kEmpty);
        size_ = 0;
    }
    size_t size() const noexcept { return size_; }
    Word operator[](size_t number) const noexcept { return words_[number]; }

    // The number of `word`, which is put in if it is new. There must be room.
    size_t insert(Word word) noexcept {
        size_t slot = hash(word);
        while (slots_[slot] != kEmpty && words_[slots_[slot]] != word) slot = (slot + 1) % kSlots;
        if (slots_[slot] == kEmpty) {
            words_[size_] = word;
            slots_[slot] = static_cast<uint16_t>(size_++);
        }
        return slots_[slot];
    }

  private:
    static constexpr size_t kSlots = 2048;
    static constexpr uint16_t kEmpty = 0xFFFF;

    static size_t hash(Word word) noexcept {
        return static_cast<size_t>(uint64_t{word} * 0x9E3779B97F4A7C15u >> 53);
    }

    std::array<uint16_t, kSlots> slots_;
    std::array<Word, kCapacity> words_;
    size_t size_ = 0;
};

// The number of distinct `words`, or nothing if there are more than `book.size()` (at most 256).
// The words go to `book` in ascending order, and for every word its place there to `codes`, of the
// size of `words`; both are undefined if there are too many. With `skip_zeros` words of zero bits
// do not count; their code is 0.
template <typename Word>
std::optional<size_t> distinct_words(std::span<const Word> words, Order order, bool skip_zeros,
                                     std::span<Word> book, std::span<uint8_t> codes) noexcept;

}  // namespace tersor::disguise
