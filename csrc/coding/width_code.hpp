// The code of a list of small non-negative widths (bit widths of frequencies, lengths of
// codewords), which change little from one to the next and have runs of zeros.
//
// A width after a non-zero one (or the first, after a guess) is its difference, zigzagged, as
// exponential Golomb code; a zero is followed by the number of further zeros; the width after a run
// of zeros is coded less one.
#pragma once

#include "coding/bitio.hpp"

namespace tersor {

inline constexpr unsigned kMaxWidth = 16;

class WidthWriter {
  public:
    WidthWriter(BitWriter& out, unsigned guess) noexcept : out_(out), previous_(guess) {}

    // Writes `width`; if it is zero, `more_zeros` is how many zeros follow it, which must not be
    // put.
    void put(unsigned width, std::uint32_t more_zeros) {
        if (previous_ == 0) {
            out_.put_exp_golomb(width - 1);
        } else {
            const int delta = static_cast<int>(width) - static_cast<int>(previous_);
            out_.put_exp_golomb(static_cast<std::uint32_t>(delta < 0 ? -2 * delta - 1 : 2 * delta));
        }
        if (width == 0) out_.put_exp_golomb(more_zeros);
        previous_ = width;
    }

  private:
    BitWriter& out_;
    unsigned previous_;
};

class WidthReader {
  public:
    WidthReader(BitReader& in, unsigned guess) noexcept : in_(in), previous_(guess) {}

    // Reads a width and, if it is zero, how many zeros follow it; false if the width is above
    // kMaxWidth.
    [[nodiscard]] bool get(unsigned& width, std::uint32_t& more_zeros) {
        const std::uint32_t code = in_.get_exp_golomb();
        if (previous_ == 0) {
            width = code + 1;
        } else {
            const std::uint32_t half = code >> 1;
            width = code & 1 ? previous_ - half - 1
                             : previous_ + half;  // wraps above kMaxWidth if negative
        }
        if (width > kMaxWidth) return false;
        more_zeros = width == 0 ? in_.get_exp_golomb() : 0;
        previous_ = width;
        return true;
    }

  private:
    BitReader& in_;
    unsigned previous_;
};

// How many zeros follow position `i` of `values`, before `end`.
template <typename Values>
std::uint32_t zeros_after(const Values& values, std::size_t i, std::size_t end) {
    std::size_t j = i + 1;
    while (j < end && values[j] == 0) ++j;
    return static_cast<std::uint32_t>(j - i - 1);
}

}  // namespace tersor
