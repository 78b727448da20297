#include "coding/rans.hpp"

#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "coding/frequency_table.hpp"
#include "coding/packed_bits.hpp"
#include "coding/rans_decode.hpp"
#include "cpu.hpp"

namespace tersor {
namespace {

// How to encode one symbol: x -> (x / f) * 2^scale + x % f + start, the division as a
// multiplication (Alverson 1991; exact for x < 2^31).
struct EncodeStep {
    std::uint32_t limit;       // states from here on give a word away first
    std::uint32_t reciprocal;  // of f
    std::uint32_t bias;
    std::uint16_t complement;  // 2^scale - f
    std::uint16_t shift;
};

EncodeStep make_step(std::uint32_t f, std::uint32_t start, unsigned scale_bits) {
    EncodeStep step{};
    step.limit = f << (31 - scale_bits);
    step.complement = static_cast<std::uint16_t>((1u << scale_bits) - f);
    if (f == 1) {
        // x * (2^32 - 1) / 2^32 = x - 1 for the quotient; the bias makes up for the missing one.
        step.reciprocal = ~0u;
        step.shift = 0;
        step.bias = start + (1u << scale_bits) - 1;
    } else {
        const unsigned shift = static_cast<unsigned>(std::bit_width(f - 1));
        step.reciprocal =
            static_cast<std::uint32_t>(((std::uint64_t{1} << (shift + 31)) + f - 1) / f);
        step.shift = static_cast<std::uint16_t>(shift - 1);
        step.bias = start;
    }
    return step;
}

std::vector<EncodeStep> make_steps(const FrequencyTable& table) {
    std::vector<EncodeStep> steps(table.alphabet.size);
    std::uint32_t start = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const std::uint32_t f = table.frequencies[i];
        if (f > 0) steps[i] = make_step(f, start, table.scale_bits);
        start += f;
    }
    return steps;
}

inline void store_le16(std::uint8_t* to, std::uint32_t value) noexcept {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// Encodes backwards from the end of `buffer`, which has two bytes a symbol and four a lane; returns
// where the coded bytes start. Decoders read the same words forwards.
template <unsigned L, typename T>
std::uint8_t* encode_lanes(std::span<const T> symbols, SymbolKind kind, const FrequencyTable& table,
                           std::uint8_t* end) {
    const std::vector<EncodeStep> steps = make_steps(table);
    const EncodeStep* const step_of = steps.data();
    const std::uint32_t offset = kind.offset;
    const std::uint32_t first = table.alphabet.first;
    const unsigned split = table.alphabet.split;
    std::array<std::uint32_t, L> states;
    states.fill(kRansLow);
    std::uint8_t* out = end;
    const auto encode = [&](std::uint32_t& x, T symbol) {
        const EncodeStep& step = step_of[(static_cast<T>(symbol + offset) >> split) - first];
        // Always store, move only if needed: no branch to mispredict.
        store_le16(out - 2, x);
        const std::uint32_t full = 0u - static_cast<std::uint32_t>(x >= step.limit);
        out -= full & 2;
        x >>= full & 16;
        const std::uint32_t quotient =
            static_cast<std::uint32_t>((static_cast<std::uint64_t>(x) * step.reciprocal) >> 32) >>
            step.shift;
        x += step.bias + quotient * step.complement;
    };
    std::size_t i = symbols.size();
    for (; i % L != 0; --i) encode(states[(i - 1) % L], symbols[i - 1]);
    for (; i > 0; i -= L) {
        for (unsigned lane = L; lane-- > 0;) encode(states[lane], symbols[i - L + lane]);
    }
    for (unsigned lane = L; lane-- > 0;) {
        out -= 4;
        store_le16(out, states[lane]);
        store_le16(out + 2, states[lane] >> 16);
    }
    return out;
}

template <typename T>
std::uint8_t* encode_payload(std::span<const T> symbols, SymbolKind kind,
                             const FrequencyTable& table, std::uint8_t* end) {
    switch (rans_lanes(symbols.size())) {
        case 1:
            return encode_lanes<1>(symbols, kind, table, end);
        case 4:
            return encode_lanes<4>(symbols, kind, table, end);
        default:
            return encode_lanes<32>(symbols, kind, table, end);
    }
}

}  // namespace

RansPlan plan_rans(std::span<const std::uint64_t> counts, SymbolKind kind) {
    const CountedAlphabet counted = count_alphabet(counts, kind);
    RansPlan plan{choose_table(counted, kind), 0};
    std::uint64_t total = 0;
    for (const std::uint64_t c : counted.counts) total += c;
    plan.cost =
        table_cost(plan.table, counted.counts, kind) + (total * plan.table.alphabet.split << 16);
    if (plan.table.scale_bits > 0) plan.cost += std::uint64_t{32} * rans_lanes(total) << 16;
    return plan;
}

template <typename T>
Bytes rans_encode(std::span<const T> symbols, SymbolKind kind, const RansPlan& plan) {
    const FrequencyTable& table = plan.table;
    Bytes blob;
    BitWriter bits(blob);
    write_table(bits, table, kind);
    bits.flush();
    if (table.alphabet.split > 0) pack_low_bits(symbols, kind, table.alphabet.split, blob);
    if (table.scale_bits == 0) return blob;
    // Two spare bytes in front: the encoder stores before it knows whether it has to.
    const std::size_t capacity = 2 * symbols.size() + 4 * rans_lanes(symbols.size()) + 2;
    const std::unique_ptr<std::uint8_t[]> buffer(new std::uint8_t[capacity]);
    std::uint8_t* const end = buffer.get() + capacity;
    blob.insert(blob.end(), encode_payload(symbols, kind, table, end), end);
    return blob;
}

template <typename T>
Bytes rans_encode(std::span<const T> symbols, SymbolKind kind) {
    return rans_encode(symbols, kind, plan_rans(histogram(symbols, kind), kind));
}

template <typename T>
bool rans_decode(ByteView blob, std::span<T> symbols, SymbolKind kind) {
    BitReader bits(blob);
    FrequencyTable table;
    if (symbols.empty() || !read_table(bits, kind, table) || !bits.align()) return false;
    const ByteView body = bits.rest();
    const unsigned split = table.alphabet.split;
    const std::size_t low_bytes = packed_size(symbols.size(), split);
    if (body.size() < low_bytes) return false;
    const ByteView words = body.subspan(low_bytes);
    if (table.scale_bits == 0) {
        if (!words.empty()) return false;
        const T symbol = from_index<T>(table.alphabet.first << split, kind);
        for (T& s : symbols) s = symbol;
    } else if (!decode_lanes(words, symbols, kind, table)) {
        return false;
    }
    return split == 0 || add_low_bits(body.first(low_bytes), split, symbols);
}

template Bytes rans_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind);
template Bytes rans_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind);
template Bytes rans_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                         const RansPlan&);
template Bytes rans_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                          const RansPlan&);
template bool rans_decode<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind);
template bool rans_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind);

}  // namespace tersor
