#include "coding/packed_bits.hpp"

namespace tersor {
namespace {

// Calls store(i, field) for each of `count` fields.
template <typename Store>
bool for_each_field(ByteView packed, std::size_t count, unsigned width, Store store) {
    if (packed.size() != packed_size(count, width)) return false;
    const std::uint64_t mask = (std::uint64_t{1} << width) - 1;
    const std::size_t batch = 57 / width;
    BitReader in(packed);
    std::size_t i = 0;
    while (i + batch <= count) {
        std::uint64_t word = in.peek();
        for (std::size_t end = i + batch; i < end; ++i) {
            store(i, static_cast<std::uint32_t>(word & mask));
            word >>= width;
        }
        in.skip(static_cast<unsigned>(batch) * width);
    }
    for (; i < count; ++i) store(i, in.get(width));
    return in.align();
}

}  // namespace

template <typename T>
void pack_low_bits(std::span<const T> symbols, SymbolKind kind, unsigned width, Bytes& out) {
    out.reserve(out.size() + packed_size(symbols.size(), width));
    const std::uint32_t mask = (1u << width) - 1;
    BitWriter bits(out);
    for (const T symbol : symbols) bits.put(to_index(symbol, kind) & mask, width);
    bits.flush();
}

template <typename T>
bool unpack_bits(ByteView packed, std::span<T> symbols, SymbolKind kind) {
    return for_each_field(
        packed, symbols.size(), kind.bits,
        [&](std::size_t i, std::uint32_t field) { symbols[i] = from_index<T>(field, kind); });
}

template <typename T>
bool add_low_bits(ByteView packed, unsigned width, std::span<T> symbols) {
    return for_each_field(packed, symbols.size(), width, [&](std::size_t i, std::uint32_t field) {
        symbols[i] = static_cast<T>(symbols[i] + field);
    });
}

template void pack_low_bits<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind, unsigned,
                                          Bytes&);
template void pack_low_bits<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind, unsigned,
                                           Bytes&);
template bool unpack_bits<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind);
template bool unpack_bits<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind);
template bool add_low_bits<std::uint8_t>(ByteView, unsigned, std::span<std::uint8_t>);
template bool add_low_bits<std::uint16_t>(ByteView, unsigned, std::span<std::uint16_t>);

}  // namespace tersor
