#include "coding/static_coders.hpp"

#include "coding/histogram.hpp"
#include "coding/huffman.hpp"
#include "coding/packed_bits.hpp"
#include "coding/rans.hpp"
#include "coding/register_rans.hpp"

namespace tersor {
namespace {

// Huffman codes beat rANS by their smaller tables only, which do not count in long streams.
constexpr std::size_t kMostForHuffman = 1u << 16;

// The states of many lanes do not pay in shorter streams, nor does speed.
constexpr std::size_t kLeastForRegisters = 1u << 12;

// What speed may cost: this part of the stream.
constexpr std::uint64_t kSpeedPrice = 128;

// More escapes than this part of the symbols take more time than the registers save.
constexpr std::uint64_t kRareEscapes = 64;

}  // namespace

template <typename T>
StaticBlob static_encode(std::span<const T> symbols, SymbolKind kind, bool fast) {
    const Counts counts = histogram(symbols, kind);
    const RansPlan rans = plan_rans(counts, kind);
    StaticMethod method = StaticMethod::rans;
    std::uint64_t cost = rans.cost;
    HuffmanPlan huffman;
    if (symbols.size() <= kMostForHuffman) {
        huffman = plan_huffman(counts, kind);
        if (huffman.cost < cost) {
            method = StaticMethod::huffman;
            cost = huffman.cost;
        }
    }
    RegisterPlan registers;
    if (sizeof(T) == 1 && symbols.size() >= kLeastForRegisters && rans.table.scale_bits > 0) {
        registers = plan_register(counts, kind);
        const bool is_quick = registers.escaped <= symbols.size() / kRareEscapes;
        if (registers.cost < cost + (fast && is_quick ? cost / kSpeedPrice : 0)) {
            method = StaticMethod::register_rans;
            cost = registers.cost;
        }
    }
    const std::size_t raw = packed_size(symbols.size(), kind.bits);
    if (cost >> 19 > raw) return {};
    StaticBlob blob{method, {}};
    if (method == StaticMethod::rans) blob.bytes = rans_encode(symbols, kind, rans);
    if (method == StaticMethod::huffman) blob.bytes = huffman_encode(symbols, kind, huffman);
    if constexpr (sizeof(T) == 1) {
        if (method == StaticMethod::register_rans) {
            blob.bytes = register_encode(symbols, kind, registers);
        }
    }
    if (blob.bytes.size() >= raw) return {};
    return blob;
}

template StaticBlob static_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind, bool);
template StaticBlob static_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind, bool);

}  // namespace tersor
