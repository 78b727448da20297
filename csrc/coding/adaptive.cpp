#include "coding/adaptive.hpp"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

#include "coding/binary_arithmetic.hpp"

namespace tersor {
namespace {

constexpr unsigned kMaxUnsignedBits = 8;  // a model has a node for every prefix of an index

// Levels of a quantized sum of magnitudes: two a power of two.
constexpr std::size_t kLevels = 32;

std::size_t level(std::uint32_t sum) noexcept {
    if (sum < 2) return sum;
    const unsigned width = static_cast<unsigned>(std::bit_width(sum));
    return std::min<std::size_t>(2 * width - 2 + (sum >> (width - 2) & 1), kLevels - 1);
}

// Values around a position, 0 where the matrix ends.
struct Neighbours {
    int left = 0;
    int left2 = 0;
    int up = 0;
    int up_left = 0;
    int up_right = 0;
    int previous = 0;  // same kernel position, previous column
};

// value(i) is that of element i, already coded.
template <typename Value>
Neighbours neighbours_at(std::size_t i, std::size_t column, Neighbourhood near, Value value) {
    Neighbours n;
    if (column >= 1) n.left = value(i - 1);
    if (column >= 2) n.left2 = value(i - 2);
    if (column >= near.kernel) n.previous = value(i - near.kernel);
    if (i >= near.row_length) {
        const std::size_t above = i - near.row_length;
        n.up = value(above);
        if (column >= 1) n.up_left = value(above - 1);
        if (column + 1 < near.row_length) n.up_right = value(above + 1);
    }
    return n;
}

std::uint32_t magnitude(int value) noexcept {
    return static_cast<std::uint32_t>(value < 0 ? -value : value);
}

// The two contexts: the scale along the row, and that of the column.
struct Contexts {
    std::size_t first;
    std::size_t second;
};

// Running means of magnitudes, in 2^-4: along the row (which goes on from the end of the row
// above), and of every column of the matrix.
class Scales {
  public:
    explicit Scales(std::size_t columns) : columns_(columns) {}

    Contexts contexts(std::size_t column, const Neighbours& n) const noexcept {
        return {level((row_ >> 1) + 4 * magnitude(n.left) + 2 * magnitude(n.left2)),
                level((columns_[column] >> 1) + 4 * magnitude(n.up) + 4 * magnitude(n.previous))};
    }

    void update(std::size_t column, int value) noexcept {
        const std::uint32_t now = magnitude(value) << 4;
        row_ = row_ - (row_ >> 4) + (now >> 4);
        columns_[column] = columns_[column] - (columns_[column] >> 3) + (now >> 3);
    }

  private:
    std::uint32_t row_ = 0;
    std::vector<std::uint32_t> columns_;
};

std::size_t sign_of(int value) noexcept { return value == 0 ? 0 : value > 0 ? 1 : 2; }

// Nodes of a signed symbol's decisions.
namespace signed_node {
constexpr std::size_t kZero = 0;
constexpr std::size_t kSign = 1;
constexpr std::size_t kWidth = 2;            // + w: is the magnitude wider than w bits (w = 1..15)
constexpr std::size_t kTop = kWidth + 16;    // + 8 w + prefix: the three bits below the top one
constexpr std::size_t kLow = kTop + 8 * 17;  // + 16 w + b: bit b further below
constexpr std::size_t kCount = kLow + 16 * 17;
constexpr std::size_t kMixers = kWidth + 16;
}  // namespace signed_node

// Codes a signed symbol: `value` when encoding, any when decoding. Returns it; a decoded one may
// leave the range of `bits` by being 2^(bits-1).
template <typename Coder>
int code_signed(Coder& coder, MixedModel& model, const Contexts& c, const Neighbours& n,
                unsigned bits, int value) {
    using namespace signed_node;
    if (model.code(coder, {kZero, c.first, c.second, kZero}, value == 0)) return 0;
    const std::size_t sides = 3 * sign_of(n.left) + sign_of(n.previous);
    const std::size_t rows = 3 * sign_of(n.up) + sign_of(n.up_left);
    const bool negative = model.code(coder, {kSign, sides, rows, kSign}, value < 0);

    const unsigned actual = static_cast<unsigned>(std::bit_width(magnitude(value)));
    unsigned width = 1;
    while (width < bits &&
           model.code(coder, {kWidth + width, c.first, c.second, kWidth + width}, actual > width)) {
        ++width;
    }
    std::uint32_t prefix = 1;
    for (unsigned bit = width - 1; bit-- > 0;) {
        const std::size_t node = prefix < 8 ? kTop + 8 * width + prefix : kLow + 16 * width + bit;
        const bool set = magnitude(value) >> bit & 1;
        prefix = prefix << 1 | model.code_alone(coder, node, set);
    }
    const int decoded = static_cast<int>(prefix);
    return negative ? -decoded : decoded;
}

// Codes the index of an unsigned symbol.
template <typename Coder>
std::uint32_t code_unsigned(Coder& coder, MixedModel& model, const Contexts& c, unsigned bits,
                            std::uint32_t index) {
    std::uint32_t prefix = 1;
    for (unsigned bit = bits; bit-- > 0;) {
        const bool set = index >> bit & 1;
        prefix = prefix << 1 | model.code(coder, {prefix, c.first, c.second, bit}, set);
    }
    return prefix - (1u << bits);
}

MixedModel& made(std::optional<MixedModel>& model, std::size_t nodes, std::size_t contexts,
                 std::size_t mixers) {
    if (!model) model.emplace(nodes, contexts, mixers);
    return *model;
}

// Runs over all symbols; store(i, symbol) is given what was coded, or decoded. False if a decoded
// symbol leaves the range.
template <typename T, typename Coder, typename Store>
bool code_all(Coder& coder, std::span<T> symbols, SymbolKind kind, Neighbourhood near,
              std::size_t slot, CodingState& state, Store store) {
    using Plain = std::remove_const_t<T>;
    const int top = (1 << (kind.bits - 1)) - 1;
    const bool is_signed = kind.offset != 0;
    if (!is_signed && kind.bits > kMaxUnsignedBits) return false;
    MixedModel& model = is_signed
                            ? made(state.signed_symbols[kind.bits], signed_node::kCount, kLevels,
                                   signed_node::kMixers)
                            : made(state.unsigned_symbols[slot], std::size_t{1} << kMaxUnsignedBits,
                                   kLevels, kMaxUnsignedBits);
    using Signed = std::make_signed_t<Plain>;
    Scales scales(near.row_length);
    // What contexts see of a symbol: its value, or its distance from the middle, which is never 0,
    // so that 0 means "no neighbour".
    const auto sized = [&](Plain symbol) -> int {
        if (is_signed) return static_cast<Signed>(symbol);
        const int distance = static_cast<int>(symbol) - top - 1;
        return distance >= 0 ? distance + 1 : distance;
    };
    std::size_t column = 0;
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        const Neighbours n =
            neighbours_at(i, column, near, [&](std::size_t j) { return sized(symbols[j]); });
        if (is_signed) {
            const int coded = code_signed(coder, model, scales.contexts(column, n), n, kind.bits,
                                          sized(symbols[i]));
            if (coded > top || coded < -top - 1) return false;
            store(i, static_cast<Plain>(coded));
            scales.update(column, coded);
        } else {
            const auto coded = static_cast<Plain>(
                code_unsigned(coder, model, scales.contexts(column, n), kind.bits, symbols[i]));
            store(i, coded);
            scales.update(column, sized(coded));
        }
        if (++column == near.row_length) column = 0;
    }
    return true;
}

template <typename Coder, typename T, typename Store>
void code_mask(Coder& coder, std::span<T> mask, Neighbourhood near, CodingState& state,
               Store store) {
    MixedModel& model = made(state.mask, 1, 32, 1);
    std::size_t column = 0;
    std::uint32_t history = 0;  // the last bits of this row, the latest lowest
    for (std::size_t i = 0; i < mask.size(); ++i) {
        const Neighbours n =
            neighbours_at(i, column, near, [&](std::size_t j) -> int { return mask[j]; });
        const std::size_t around = static_cast<std::size_t>(n.left | n.left2 << 1 | n.up << 2 |
                                                            n.up_left << 3 | n.up_right << 4);
        const std::size_t density = static_cast<std::size_t>(std::popcount(history & 0x7fff)) * 2 +
                                    static_cast<std::size_t>(n.previous);
        const bool kept = model.code(coder, {0, around, density, 0}, mask[i] != 0);
        store(i, static_cast<std::uint8_t>(kept));
        history = history << 1 | kept;
        if (++column == near.row_length) {
            column = 0;
            history = 0;
        }
    }
}

constexpr auto kKeep = [](std::size_t, auto) {};

}  // namespace

template <typename T>
Bytes adaptive_encode(std::span<const T> symbols, SymbolKind kind, Neighbourhood near,
                      std::size_t slot, CodingState& state) {
    BinaryEncoder coder;
    code_all(coder, symbols, kind, near, slot, state, kKeep);
    return coder.finish();
}

template <typename T>
bool adaptive_decode(ByteView blob, std::span<T> symbols, SymbolKind kind, Neighbourhood near,
                     std::size_t slot, CodingState& state) {
    BinaryDecoder coder(blob);
    const auto store = [&](std::size_t i, T symbol) { symbols[i] = symbol; };
    return code_all(coder, symbols, kind, near, slot, state, store) && coder.finished();
}

Bytes mask_encode(std::span<const std::uint8_t> mask, Neighbourhood near, CodingState& state) {
    BinaryEncoder coder;
    code_mask(coder, mask, near, state, kKeep);
    return coder.finish();
}

bool mask_decode(ByteView blob, std::span<std::uint8_t> mask, Neighbourhood near,
                 CodingState& state) {
    BinaryDecoder coder(blob);
    code_mask(coder, mask, near, state, [&](std::size_t i, std::uint8_t kept) { mask[i] = kept; });
    return coder.finished();
}

template Bytes adaptive_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                             Neighbourhood, std::size_t, CodingState&);
template Bytes adaptive_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                              Neighbourhood, std::size_t, CodingState&);
template bool adaptive_decode<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind,
                                            Neighbourhood, std::size_t, CodingState&);
template bool adaptive_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind,
                                             Neighbourhood, std::size_t, CodingState&);

}  // namespace tersor
