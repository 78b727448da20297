#include "coding/huffman.hpp"

#include <algorithm>
#include <bit>

#include "coding/frequency_table.hpp"
#include "coding/width_code.hpp"

namespace tersor {
namespace {

constexpr unsigned kNarrowLimit = 12;
constexpr unsigned kWideLimit = 15;

constexpr unsigned length_limit(std::uint32_t size) noexcept {
    return size <= 256 ? kNarrowLimit : kWideLimit;
}

// One codeword; its first bit is the lowest, as the bit stream is read.
struct Codeword {
    std::uint16_t bits;
    std::uint16_t length;
};

// Canonical codewords: shorter first, then by index. `lengths` must satisfy Kraft's equality.
std::vector<Codeword> canonical_code(std::span<const std::uint8_t> lengths, unsigned limit) {
    std::vector<Codeword> code(lengths.size());
    std::uint32_t next = 0;
    for (unsigned length = 1; length <= limit; ++length, next <<= 1) {
        for (std::size_t i = 0; i < lengths.size(); ++i) {
            if (lengths[i] != length) continue;
            std::uint32_t reversed = 0;
            for (unsigned b = 0; b < length; ++b) reversed |= (next >> b & 1) << (length - 1 - b);
            code[i] = {static_cast<std::uint16_t>(reversed), static_cast<std::uint16_t>(length)};
            ++next;
        }
    }
    return code;
}

void write_lengths(BitWriter& out, std::span<const std::uint8_t> lengths) {
    WidthWriter widths(out, static_cast<unsigned>(std::bit_width(lengths.size())));
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::uint32_t zeros = lengths[i] == 0 ? zeros_after(lengths, i, lengths.size()) : 0;
        widths.put(lengths[i], zeros);
        i += zeros;
    }
}

void write_head(BitWriter& out, const HuffmanPlan& plan, SymbolKind kind) {
    const bool constant = plan.lengths.empty();
    out.put(constant, 1);
    write_alphabet(out, plan.alphabet, kind, constant);
    if (!constant) write_lengths(out, plan.lengths);
}

// Reads lengths; false unless they make a complete prefix code within the limit.
bool read_lengths(BitReader& in, std::span<std::uint8_t> lengths, unsigned limit) {
    WidthReader widths(in, static_cast<unsigned>(std::bit_width(lengths.size())));
    std::uint32_t left = 1u << limit;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        unsigned length;
        std::uint32_t zeros;
        if (!widths.get(length, zeros) || in.overrun() || length > limit) return false;
        if (length == 0) {
            if (zeros >= lengths.size() - i) return false;
            i += zeros;
            continue;
        }
        const std::uint32_t share = 1u << (limit - length);
        if (share > left) return false;
        left -= share;
        lengths[i] = static_cast<std::uint8_t>(length);
    }
    return left == 0;
}

// For every `limit` next bits: the symbol's index << split in the high half, the codeword's length
// in the low.
std::vector<std::uint32_t> decode_table(std::span<const std::uint8_t> lengths, unsigned limit,
                                        unsigned split) {
    std::vector<std::uint32_t> table(std::size_t{1} << limit);
    const std::vector<Codeword> code = canonical_code(lengths, limit);
    for (std::size_t i = 0; i < code.size(); ++i) {
        if (code[i].length == 0) continue;
        const std::uint32_t entry = static_cast<std::uint32_t>(i << split) << 16 | code[i].length;
        for (std::size_t at = code[i].bits; at < table.size();
             at += std::size_t{1} << code[i].length) {
            table[at] = entry;
        }
    }
    return table;
}

template <typename T>
void decode_codewords(BitReader& in, std::span<T> symbols, T base,
                      std::span<const std::uint32_t> table, unsigned limit, unsigned split) {
    const std::uint64_t mask = (std::uint64_t{1} << limit) - 1;
    const std::uint64_t low_mask = (std::uint64_t{1} << split) - 1;
    const std::size_t batch = 57 / (limit + split);
    std::size_t i = 0;
    while (i < symbols.size()) {
        std::uint64_t word = in.peek();
        unsigned used = 0;
        for (const std::size_t end = std::min(symbols.size(), i + batch); i < end; ++i) {
            const std::uint32_t entry = table[word & mask];
            const unsigned length = entry & 0xffff;
            word >>= length;
            symbols[i] = static_cast<T>(base + static_cast<T>((entry >> 16) + (word & low_mask)));
            word >>= split;
            used += length + split;
        }
        in.skip(used);
    }
}

}  // namespace

std::vector<std::uint8_t> code_lengths(std::span<const std::uint64_t> counts, unsigned limit) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 0) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return counts[a] < counts[b]; });
    // Per level, cheapest first: which items are single codewords (the others are packages of two
    // items of the level below).
    std::vector<std::vector<bool>> levels;
    std::vector<std::uint64_t> below;
    for (unsigned level = 0; level < limit; ++level) {
        std::vector<std::uint64_t> items;
        std::vector<bool> is_single;
        std::size_t single = 0;
        std::size_t package = 0;
        while (single < order.size() || package + 1 < below.size()) {
            const bool packages_left = package + 1 < below.size();
            const std::uint64_t pair = packages_left ? below[package] + below[package + 1] : 0;
            const bool take =
                single < order.size() && (!packages_left || counts[order[single]] <= pair);
            items.push_back(take ? counts[order[single]] : pair);
            is_single.push_back(take);
            take ? single += 1 : package += 2;
        }
        below = std::move(items);
        levels.push_back(std::move(is_single));
    }
    // The 2n - 2 cheapest items of the top level: each single one adds a bit to its symbol's
    // codeword.
    std::vector<std::uint8_t> lengths(counts.size());
    std::size_t taken = 2 * order.size() - 2;
    for (unsigned level = limit; level-- > 0;) {
        const auto begin = levels[level].begin();
        const auto singles = static_cast<std::size_t>(
            std::count(begin, begin + static_cast<std::ptrdiff_t>(taken), true));
        for (std::size_t i = 0; i < singles; ++i) ++lengths[order[i]];
        taken = 2 * (taken - singles);
    }
    return lengths;
}

HuffmanPlan plan_huffman(std::span<const std::uint64_t> counts, SymbolKind kind) {
    const CountedAlphabet counted = count_alphabet(counts, kind);
    HuffmanPlan plan;
    plan.alphabet = counted.alphabet;
    std::uint64_t total = 0;
    for (const std::uint64_t c : counted.counts) total += c;
    std::uint64_t bits = total * counted.alphabet.split;
    if (counted.alphabet.size > 1) {
        plan.lengths = code_lengths(counted.counts, length_limit(counted.alphabet.size));
        for (std::size_t i = 0; i < plan.lengths.size(); ++i) {
            bits += counted.counts[i] * plan.lengths[i];
        }
    }
    Bytes head;
    BitWriter out(head);
    write_head(out, plan, kind);
    plan.cost = (bits + 8 * head.size() + out.pending_bits()) << 16;
    return plan;
}

template <typename T>
Bytes huffman_encode(std::span<const T> symbols, SymbolKind kind, const HuffmanPlan& plan) {
    const Alphabet& alphabet = plan.alphabet;
    Bytes blob;
    BitWriter out(blob);
    write_head(out, plan, kind);
    std::vector<Codeword> code(1);
    if (!plan.lengths.empty()) code = canonical_code(plan.lengths, length_limit(alphabet.size));
    const std::uint32_t low_mask = (1u << alphabet.split) - 1;
    for (const T symbol : symbols) {
        const std::uint32_t index = to_index(symbol, kind);
        const Codeword word = code[(index >> alphabet.split) - alphabet.first];
        out.put(word.bits | (index & low_mask) << word.length, word.length + alphabet.split);
    }
    out.flush();
    return blob;
}

template <typename T>
Bytes huffman_encode(std::span<const T> symbols, SymbolKind kind) {
    return huffman_encode(symbols, kind, plan_huffman(histogram(symbols, kind), kind));
}

template <typename T>
bool huffman_decode(ByteView blob, std::span<T> symbols, SymbolKind kind) {
    BitReader in(blob);
    Alphabet alphabet;
    const bool constant = in.get(1) != 0;
    if (symbols.empty() || !read_alphabet(in, kind, constant, alphabet)) return false;
    // A constant stream is a code of one empty codeword: a table of one entry.
    unsigned limit = 0;
    std::vector<std::uint32_t> table(1);
    if (!constant) {
        limit = length_limit(alphabet.size);
        std::vector<std::uint8_t> lengths(alphabet.size);
        if (!read_lengths(in, lengths, limit)) return false;
        table = decode_table(lengths, limit, alphabet.split);
    }
    const T base = from_index<T>(alphabet.first << alphabet.split, kind);
    if (limit + alphabet.split == 0) {
        for (T& symbol : symbols) symbol = base;
    } else {
        decode_codewords(in, symbols, base, table, limit, alphabet.split);
    }
    return !in.overrun() && in.align() && in.rest().empty();
}

template Bytes huffman_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind);
template Bytes huffman_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind);
template Bytes huffman_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                            const HuffmanPlan&);
template Bytes huffman_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                             const HuffmanPlan&);
template bool huffman_decode<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind);
template bool huffman_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind);

}  // namespace tersor
