// Binary arithmetic coding: a 32-bit interval that gives a byte away whenever its top byte is
// settled, so that no carry can happen.
//
// Invariant: low <= high, and their top bytes differ between decisions. Both sides are fed the same
// probabilities, so they hold the same interval.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "coding/bitio.hpp"

namespace tersor {

// Where [low, high] is cut for a decision that is true with probability / 2^16; 0 < probability <
// 2^16. The lower part, up to and including the cut, is "true". low <= cut < high, or low = cut =
// high.
inline std::uint32_t interval_cut(std::uint32_t low, std::uint32_t high,
                                  std::uint32_t probability) noexcept {
    return low +
           static_cast<std::uint32_t>((static_cast<std::uint64_t>(high - low) * probability) >> 16);
}

class BinaryEncoder {
  public:
    // Codes `decision`, and returns it.
    bool code(bool decision, std::uint32_t probability) {
        const std::uint32_t cut = interval_cut(low_, high_, probability);
        decision ? high_ = cut : low_ = cut + 1;
        while ((low_ ^ high_) >> 24 == 0) {
            bytes_.push_back(static_cast<std::uint8_t>(high_ >> 24));
            low_ <<= 8;
            high_ = high_ << 8 | 0xff;
        }
        return decision;
    }

    // The bytes of all decisions. Decoders read zeros behind them, so at most one byte settles the
    // end.
    Bytes finish() {
        if (low_ != 0) bytes_.push_back(static_cast<std::uint8_t>((low_ >> 24) + 1));
        return std::move(bytes_);
    }

  private:
    Bytes bytes_;
    std::uint32_t low_ = 0;
    std::uint32_t high_ = ~0u;
};

class BinaryDecoder {
  public:
    explicit BinaryDecoder(ByteView bytes) noexcept : bytes_(bytes) {
        value_ = ahead();
        position_ = 4;
    }

    // The next decision; the first argument only makes the signature that of the encoder.
    bool code(bool, std::uint32_t probability) noexcept {
        const std::uint32_t cut = interval_cut(low_, high_, probability);
        const bool decision = value_ <= cut;
        low_ = decision ? low_ : cut + 1;
        high_ = decision ? cut : high_;
        // Settled bytes leave all at once, and without a branch that chance would decide.
        const int bits = std::countl_zero(low_ ^ high_) & ~7;
        const std::uint64_t ones = (std::uint64_t{1} << bits) - 1;
        low_ = static_cast<std::uint32_t>(static_cast<std::uint64_t>(low_) << bits);
        high_ = static_cast<std::uint32_t>(static_cast<std::uint64_t>(high_) << bits | ones);
        value_ = static_cast<std::uint32_t>(
            (static_cast<std::uint64_t>(value_) << 32 | ahead()) << bits >> 32);
        position_ += static_cast<std::size_t>(bits >> 3);
        return decision;
    }

    // Whether the bytes are exactly those that an encoder of the same decisions returns.
    bool finished() const noexcept {
        const std::size_t settled = position_ - 4;
        if (low_ == 0) return bytes_.size() == settled;
        return bytes_.size() == settled + 1 && bytes_[settled] == (low_ >> 24) + 1;
    }

  private:
    // The next four bytes; zeros behind the last one.
    std::uint32_t ahead() const noexcept {
        if (position_ + 4 <= bytes_.size()) [[likely]] {
            const std::uint8_t* next = bytes_.data() + position_;
            return std::uint32_t{next[0]} << 24 | next[1] << 16 | next[2] << 8 | next[3];
        }
        std::uint32_t word = 0;
        for (std::size_t at = position_; at < position_ + 4; ++at) {
            word = word << 8 | (at < bytes_.size() ? bytes_[at] : 0);
        }
        return word;
    }

    ByteView bytes_;
    std::size_t position_ = 0;
    std::uint32_t low_ = 0;
    std::uint32_t high_ = ~0u;
    std::uint32_t value_ = 0;
};

}  // namespace tersor
