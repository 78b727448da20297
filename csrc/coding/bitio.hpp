// Bits and integers to bytes and back. Bits fill bytes from the least significant bit on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace tersor {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

// Little-endian load of eight bytes; `from` must have them.
inline std::uint64_t load_le64(const std::uint8_t* from) noexcept {
    std::uint64_t value;
    std::memcpy(&value, from, sizeof(value));
    if constexpr (std::endian::native == std::endian::big) value = __builtin_bswap64(value);
    return value;
}

inline std::uint32_t load_le32(const std::uint8_t* from) noexcept {
    return static_cast<std::uint32_t>(from[0]) | static_cast<std::uint32_t>(from[1]) << 8 |
           static_cast<std::uint32_t>(from[2]) << 16 | static_cast<std::uint32_t>(from[3]) << 24;
}

inline std::uint32_t load_le16(const std::uint8_t* from) noexcept {
    return static_cast<std::uint32_t>(from[0]) | static_cast<std::uint32_t>(from[1]) << 8;
}

inline void store_le16(std::uint8_t* to, std::uint32_t value) noexcept {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// Appends bits to a byte vector. `flush` pads the last byte with zero bits.
class BitWriter {
  public:
    explicit BitWriter(Bytes& out) noexcept : out_(out) {}

    // Appends the `width` low bits of `value`; width <= 32, no bit above them may be set.
    void put(std::uint32_t value, unsigned width) {
        pending_ |= static_cast<std::uint64_t>(value) << filled_;
        filled_ += width;
        if (filled_ >= 32) {
            const std::uint8_t bytes[4] = {static_cast<std::uint8_t>(pending_),
                                           static_cast<std::uint8_t>(pending_ >> 8),
                                           static_cast<std::uint8_t>(pending_ >> 16),
                                           static_cast<std::uint8_t>(pending_ >> 24)};
            out_.insert(out_.end(), bytes, bytes + 4);
            pending_ >>= 32;
            filled_ -= 32;
        }
    }

    // Exponential Golomb code of order 0 (Elias gamma of value + 1): 0 costs one bit, 1 and 2
    // three.
    void put_exp_golomb(std::uint32_t value) {
        const unsigned extra = static_cast<unsigned>(std::bit_width(value + 1)) - 1;
        put(1u << extra, extra + 1);
        put((value + 1) & ((1u << extra) - 1), extra);
    }

    void flush() {
        for (; filled_ > 0; filled_ -= filled_ < 8 ? filled_ : 8) {
            out_.push_back(static_cast<std::uint8_t>(pending_));
            pending_ >>= 8;
        }
    }

    // Bits that are not in the byte vector yet.
    unsigned pending_bits() const noexcept { return filled_; }

  private:
    Bytes& out_;
    std::uint64_t pending_ = 0;
    unsigned filled_ = 0;
};

// Reads bits from a buffer. Beyond the end it reads zeros and `overrun` becomes true: callers check
// it before they trust what they read.
class BitReader {
  public:
    explicit BitReader(ByteView data) noexcept : data_(data) {}

    // The next bits, at least 57 of them, without consuming any.
    std::uint64_t peek() const noexcept {
        const std::size_t byte = static_cast<std::size_t>(position_ >> 3);
        std::uint64_t word = 0;
        if (byte + 8 <= data_.size()) {
            word = load_le64(data_.data() + byte);
        } else {
            for (std::size_t i = byte; i < data_.size(); ++i) {
                word |= static_cast<std::uint64_t>(data_[i]) << (8 * (i - byte));
            }
        }
        return word >> (position_ & 7);
    }

    void skip(unsigned width) noexcept { position_ += width; }

    // The next `width` <= 32 bits.
    std::uint32_t get(unsigned width) noexcept {
        const std::uint64_t word = peek() & ((std::uint64_t{1} << width) - 1);
        skip(width);
        return static_cast<std::uint32_t>(word);
    }

    // An exponential Golomb code of order 0. Prefixes of more than 24 zeros are not written by any
    // encoder here: they mark the reader as overrun.
    std::uint32_t get_exp_golomb() noexcept {
        const std::uint64_t word = peek();
        const unsigned extra =
            static_cast<unsigned>(std::countr_zero(word | std::uint64_t{1} << 25));
        if (extra > 24) {
            position_ = end() + 1;
            return 0;
        }
        skip(extra + 1);
        return (1u << extra) + get(extra) - 1;
    }

    bool overrun() const noexcept { return position_ > end(); }

    // Moves to the next byte boundary; false if the padding is not zero or the data ended before.
    [[nodiscard]] bool align() noexcept {
        const unsigned padding = static_cast<unsigned>(-position_ & 7);
        return get(padding) == 0 && !overrun();
    }

    std::uint64_t position() const noexcept { return position_; }

    // Whole bytes from the position on; call it aligned and not overrun.
    ByteView rest() const noexcept {
        return data_.subspan(static_cast<std::size_t>(position_ >> 3));
    }

  private:
    std::uint64_t end() const noexcept { return static_cast<std::uint64_t>(data_.size()) * 8; }

    ByteView data_;
    std::uint64_t position_ = 0;  // in bits
};

}  // namespace tersor
