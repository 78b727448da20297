#include "coding/rans.hpp"

#include <memory>

#include "coding/frequency_table.hpp"
#include "coding/packed_bits.hpp"
#include "coding/rans_decode.hpp"
#include "coding/rans_encode.hpp"

namespace tersor {
RansPlan plan_rans(std::span<const std::uint64_t> counts, SymbolKind kind) {
    const CountedAlphabet counted = count_alphabet(counts, kind);
    RansPlan plan{choose_table(counted, kind), 0};
    std::uint64_t total = 0;
    for (const std::uint64_t c : counted.counts) total += c;
    plan.cost =
        table_cost(plan.table, counted.counts, kind) + (total * plan.table.alphabet.split << 16);
    // A state takes 32 bits and stands for 8 bits of the symbols, on average.
    if (plan.table.scale_bits > 0) plan.cost += std::uint64_t{24} * rans_lanes(total) << 16;
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
    const std::size_t capacity = encode_capacity(symbols.size());
    const std::unique_ptr<std::uint8_t[]> buffer(new std::uint8_t[capacity]);
    std::uint8_t* const end = buffer.get() + capacity;
    blob.insert(blob.end(), encode_lanes(symbols, kind, table, end), end);
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
