// Indices of a trellis into codes (coding/trellis_path.hpp): codes are in range, and their indices
// are those that were read.
#include <algorithm>
#include <array>

#include "coding/trellis_path.hpp"
#include "input.hpp"

namespace {

using namespace tersor;

template <typename T>
void check(ByteView raw, std::size_t row_length, unsigned states, unsigned bits, bool masked) {
    std::vector<T> indices(raw.size() / sizeof(T));
    for (std::size_t i = 0; i < indices.size(); ++i) {
        unsigned word = 0;
        for (std::size_t b = 0; b < sizeof(T); ++b) word |= raw[i * sizeof(T) + b] << (8 * b);
        indices[i] = static_cast<T>(word);
    }
    std::vector<std::uint8_t> kept(masked ? indices.size() : 0, 1);
    for (std::size_t i = 0; i < kept.size(); i += 3) indices[i] = kept[i] = 0;
    std::vector<T> codes = indices;
    if (!trellis_codes<T>(codes, row_length, states, bits, kept)) return;
    const auto in_range = [&](T q) { return q >= -(1 << (bits - 1)) && q < 1 << (bits - 1); };
    REQUIRE(std::ranges::all_of(codes, in_range));
    std::vector<T> back(codes.size());
    REQUIRE(!trellis_indices<T>(codes, row_length, states, kept, back));
    REQUIRE(back == indices);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const bool wide = input.number(1, 1) != 0;
    const unsigned bits = input.number(1, wide ? 15 : 7) + 1;
    const std::size_t row_length = input.number(2, 4095) + 1;
    const unsigned states = std::array{1u, 4u, 8u}[input.number(1, 2)];
    const bool masked = input.number(1, 1) != 0;
    if (wide) {
        check<std::int16_t>(input.rest(), row_length, states, bits, masked);
    } else {
        check<std::int8_t>(input.rest(), row_length, states, bits, masked);
    }
    return 0;
}
