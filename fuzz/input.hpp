// What a fuzz input means: a few bytes say what the decoder is told (width, count, geometry), the
// rest is the blob. And what every target asserts of a decoder of symbols.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/bucket_model.hpp"
#include "coding/symbols.hpp"
#include "cpu.hpp"

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                        \
        }                                                                        \
    } while (false)

namespace tersor::fuzz {

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

    // The next `bytes`, little-endian, modulo limit + 1; zeros behind the end.
    std::uint32_t number(unsigned bytes, std::uint32_t limit) {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < bytes && !rest_.empty(); ++i) {
            value |= static_cast<std::uint64_t>(rest_.front()) << (8 * i);
            rest_ = rest_.subspan(1);
        }
        return static_cast<std::uint32_t>(value % (std::uint64_t{limit} + 1));
    }

    ByteView rest() const { return rest_; }

  private:
    ByteView rest_;
};

// Rows, channels and kernel positions of at most `most` elements.
inline MatrixShape matrix_shape(Input& input, std::uint32_t most) {
    const std::uint32_t kernel = input.number(1, 15) + 1;
    const std::uint32_t channels = input.number(2, most / kernel - 1) + 1;
    return {input.number(2, most / (kernel * channels) - 1) + 1, channels, kernel};
}

// How symbols are stored: the low five bits of a byte are bits - 1, the others the array's type
// (0 uint8, 1 int8, 2 int16).
struct Storage {
    SymbolKind kind;
    bool wide;
};

inline Storage storage(Input& input) {
    const std::uint32_t byte = input.number(1, 255);
    const std::uint32_t type = (byte >> 5) % 3;
    const unsigned bits = byte % (type == 2 ? 16 : 8) + 1;
    return {{bits, type == 0 ? 0 : 1u << (bits - 1)}, type == 2};
}

// Calls work(T{}) with T the type of an array element.
template <typename Work>
void with_type(const Storage& stored, Work work) {
    if (stored.wide) {
        work(std::uint16_t{});
    } else {
        work(std::uint8_t{});
    }
}

// decode(blob, span<T>) -> bool and encode(span<const T>) -> Bytes, of one stream of `count`
// symbols. Every instruction set decodes alike; what is accepted is in range, and its own encoding
// gives it back (encoders that decline give no bytes).
template <typename T, typename Decode, typename Encode>
void check_symbols(ByteView blob, std::size_t count, SymbolKind kind, Decode decode,
                   Encode encode) {
    std::vector<T> symbols(count);
    const bool good = decode(blob, std::span<T>(symbols));
    force_isa(Isa::scalar);
    std::vector<T> twin(count);
    REQUIRE(decode(blob, std::span<T>(twin)) == good);
    force_isa(detected_isa());
    if (!good) return;
    REQUIRE(symbols == twin);
    const std::span<const T> view(symbols);
    REQUIRE(in_range(view, kind));
    const Bytes again = encode(view);
    if (again.empty()) return;
    std::vector<T> back(count);
    REQUIRE(decode(ByteView(again), std::span<T>(back)));
    REQUIRE(back == symbols);
}

// A whole target for a coder without state: storage, count in three bytes, blob.
template <typename Decode, typename Encode>
void check_coder(const std::uint8_t* data, std::size_t size, Decode decode, Encode encode) {
    constexpr std::uint32_t kMost = 1u << 17;
    Input input(data, size);
    const Storage stored = storage(input);
    const std::size_t count = input.number(3, kMost - 1) + 1;
    with_type(stored, [&](auto element) {
        using T = decltype(element);
        check_symbols<T>(
            input.rest(), count, stored.kind,
            [&](ByteView blob, std::span<T> out) { return decode(blob, out, stored.kind); },
            [&](std::span<const T> in) { return encode(in, stored.kind); });
    });
}

}  // namespace tersor::fuzz
