// Bit predictor for the index of a .tsr file: tensor names, NUL-terminated, then columns of small
// bytes.
//
// Logistic mixing of context counters (Mahoney 2005, "Adaptive weighing of context models for
// lossless data compression"), integers only. Beside the usual contexts of the last bytes there are
// some for lists of names: the name so far without its digits ("skeleton"), the same beside the
// name before, and the number that stands at the same place in the name before, repeated or
// stepped.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tersor::text {

// Counters and the guesses of a whole byte, each one input of the mixer.
constexpr size_t kContexts = 7;
constexpr size_t kGuesses = 3;
constexpr size_t kInputs = kContexts + kGuesses;
constexpr size_t kConfidences = 8;

// An adaptive probability: the n-th update moves it by 1 / (n + 1.5), down to a lowest rate.
struct Counter {
    int16_t probability;  // that the bit is 1, in 1/65536, less a half
    uint8_t check;        // part of the hash of the context that owns the counter
    uint8_t seen;         // updates, saturating
};

// What the bytes so far say about the next one.
class History {
  public:
    struct Guess {
        int byte = -1;         // the byte that is expected, or -1
        uint32_t context = 0;  // of the counter that says how far to trust the guess
    };

    History();
    void append(uint8_t byte) noexcept;

    const std::array<uint32_t, kContexts>& contexts() const noexcept { return contexts_; }
    const std::array<Guess, kGuesses>& guesses() const noexcept { return guesses_; }

  private:
    static constexpr size_t kRingBytes = size_t{1} << 20;
    static constexpr size_t kMatchSlots = size_t{1} << 16;
    static constexpr size_t kFields = 8;  // numbers of a name that are followed

    struct Number {
        uint32_t value = 0;
        uint32_t step = 1;  // the last increase that was seen at this place
        bool present = false;
    };

    uint8_t back(size_t distance) const noexcept {
        return ring_[(size_ - distance) & (kRingBytes - 1)];
    }
    void follow_match() noexcept;
    void follow_name(uint8_t byte) noexcept;
    void end_number() noexcept;
    void set_contexts() noexcept;
    void set_number_guesses() noexcept;

    std::unique_ptr<uint8_t[]> ring_;
    std::unique_ptr<uint32_t[]>
        recent_;  // position after the last occurrence of a hash of kMatchMinimum bytes
    size_t size_ = 0;
    size_t match_at_ = 0, match_bytes_ = 0;

    uint32_t skeleton_ = 0, above_ = 0;  // hashes: this name without digits; the whole name before
    std::array<Number, kFields> numbers_{}, numbers_above_{};
    size_t field_ = 0;     // numbers of this name that are complete
    uint32_t digits_ = 0;  // of the number that is being read
    uint32_t value_ = 0;

    std::array<uint32_t, kContexts> contexts_{};
    std::array<Guess, kGuesses> guesses_{};
};

class Model {
  public:
    // Primed with the dictionary.
    Model();

    // Probability that the next bit is 1, in 1/65536, between 1 and 65535.
    uint32_t probability() const noexcept { return probability_; }
    // Bits of a byte come highest first.
    void update(bool bit) noexcept;

  private:
    static constexpr size_t kRow = 16;  // counters that lie in a cache line
    static constexpr uint32_t kRowBits = 13;
    static constexpr size_t kCounters = kRow << kRowBits;

    void select_rows() noexcept;
    void predict() noexcept;
    int32_t guess_sign(size_t guess) noexcept;

    History history_;
    std::unique_ptr<Counter[]> counters_;  // kInputs x kCounters
    std::array<std::array<int32_t, kConfidences>, kInputs> weights_;
    int32_t rate_ = 0, bytes_ = 0;
    uint32_t partial_ = 1;  // a leading one, then the bits of the current byte
    uint32_t bits_ = 0;     // how many they are
    uint32_t probability_ = 0x8000;

    // Of the current bit:
    std::array<Counter*, kInputs> slots_{};
    std::array<Counter, kInputs> active_{};
    std::array<int32_t, kInputs> inputs_{};
    std::array<int32_t*, kInputs> active_weights_{};
    std::array<int32_t, kGuesses>
        signs_{};  // +1 if the guess says 1, -1 for 0, 0 if it says nothing
};

}  // namespace tersor::text
