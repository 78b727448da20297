#include "coding/frequency_table.hpp"

#include <algorithm>
#include <bit>
#include <queue>

#include "coding/width_code.hpp"

namespace tersor {
namespace {

constexpr std::uint64_t kManySymbols = 1u << 16;

unsigned expected_width(unsigned scale_bits, std::uint32_t size) noexcept {
    const unsigned share = static_cast<unsigned>(std::bit_width(size));
    return scale_bits >= share ? scale_bits - share + 1 : 1;
}

// A symbol whose frequency may change by one, and the ratio 2 count / (2 f +- 1) that ranks it.
struct Change {
    std::uint64_t count;
    std::uint64_t divisor;
    std::size_t symbol;
};

bool ratio_less(const Change& a, const Change& b) noexcept {
    return static_cast<unsigned __int128>(a.count) * b.divisor <
           static_cast<unsigned __int128>(b.count) * a.divisor;
}

void raise(std::span<const std::uint64_t> counts, std::uint64_t missing,
           std::vector<std::uint32_t>& f) {
    const auto later = [](const Change& a, const Change& b) {
        if (ratio_less(a, b)) return true;
        if (ratio_less(b, a)) return false;
        return a.symbol > b.symbol;
    };
    std::priority_queue<Change, std::vector<Change>, decltype(later)> queue(later);
    for (std::size_t i = 0; i < f.size(); ++i) {
        if (f[i] > 0) queue.push({counts[i], 2ull * f[i] + 1, i});
    }
    for (; missing > 0; --missing) {
        const Change best = queue.top();
        queue.pop();
        const std::uint32_t now = ++f[best.symbol];
        queue.push({best.count, 2ull * now + 1, best.symbol});
    }
}

void lower(std::span<const std::uint64_t> counts, std::uint64_t excess,
           std::vector<std::uint32_t>& f) {
    const auto later = [](const Change& a, const Change& b) {
        if (ratio_less(b, a)) return true;
        if (ratio_less(a, b)) return false;
        return a.symbol > b.symbol;
    };
    std::priority_queue<Change, std::vector<Change>, decltype(later)> queue(later);
    for (std::size_t i = 0; i < f.size(); ++i) {
        if (f[i] > 1) queue.push({counts[i], 2ull * f[i] - 1, i});
    }
    for (; excess > 0; --excess) {
        const Change best = queue.top();
        queue.pop();
        const std::uint32_t now = --f[best.symbol];
        if (now > 1) queue.push({best.count, 2ull * now - 1, best.symbol});
    }
}

}  // namespace

std::uint64_t table_cost(const FrequencyTable& table, std::span<const std::uint64_t> counts,
                         SymbolKind kind) {
    Bytes bytes;
    BitWriter out(bytes);
    write_table(out, table, kind);
    std::uint64_t bits = (8 * bytes.size() + out.pending_bits()) << 16;
    const std::uint64_t full = static_cast<std::uint64_t>(table.scale_bits) << 16;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 0) bits += counts[i] * (full - log2_fixed(table.frequencies[i]));
    }
    return bits;
}

CountedAlphabet count_alphabet(std::span<const std::uint64_t> counts, SymbolKind kind) {
    const unsigned split = split_bits(kind.bits);
    Counts top(counts.size() >> split);
    for (std::size_t i = 0; i < counts.size(); ++i) top[i >> split] += counts[i];
    std::size_t first = 0;
    std::size_t end = top.size();
    while (top[first] == 0) ++first;
    while (top[end - 1] == 0) --end;
    CountedAlphabet counted;
    counted.alphabet = {split, static_cast<std::uint32_t>(first),
                        static_cast<std::uint32_t>(end - first)};
    counted.counts.assign(top.begin() + static_cast<std::ptrdiff_t>(first),
                          top.begin() + static_cast<std::ptrdiff_t>(end));
    return counted;
}

std::vector<std::uint32_t> normalize(std::span<const std::uint64_t> counts, unsigned scale_bits) {
    std::uint64_t total = 0;
    for (const std::uint64_t c : counts) total += c;
    std::vector<std::uint32_t> f(counts.size());
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] == 0) continue;
        const std::uint64_t rounded = ((counts[i] << scale_bits) + total / 2) / total;
        f[i] = static_cast<std::uint32_t>(std::max<std::uint64_t>(rounded, 1));
        sum += f[i];
    }
    const std::uint64_t target = std::uint64_t{1} << scale_bits;
    if (sum < target) raise(counts, target - sum, f);
    if (sum > target) lower(counts, sum - target, f);
    return f;
}

FrequencyTable choose_table(const CountedAlphabet& counted, SymbolKind kind) {
    const auto& counts = counted.counts;
    if (counts.size() == 1) return {counted.alphabet, 0, {1}};
    std::uint64_t total = 0;
    std::uint32_t used = 0;
    for (const std::uint64_t c : counts) {
        total += c;
        used += c > 0;
    }
    const unsigned finest = counts.size() <= 256 ? kMaxNarrowScaleBits : kMaxScaleBits;
    unsigned scale = std::max(kMinScaleBits, static_cast<unsigned>(std::bit_width(used)));
    if (total >= kManySymbols) scale = finest;
    FrequencyTable best;
    std::uint64_t best_cost = ~std::uint64_t{0};
    for (; scale <= finest; ++scale) {
        FrequencyTable table{counted.alphabet, scale, normalize(counts, scale)};
        const std::uint64_t bits =
            scale == finest && best.scale_bits == 0 ? 0 : table_cost(table, counts, kind);
        if (bits < best_cost) {
            best = std::move(table);
            best_cost = bits;
        }
    }
    return best;
}

void write_alphabet(BitWriter& out, const Alphabet& alphabet, SymbolKind kind, bool constant) {
    const unsigned bits = kind.bits - alphabet.split;
    out.put(alphabet.first, bits);
    if (!constant) out.put(alphabet.size - 1, bits);
}

bool read_alphabet(BitReader& in, SymbolKind kind, bool constant, Alphabet& alphabet) {
    alphabet.split = split_bits(kind.bits);
    const unsigned bits = kind.bits - alphabet.split;
    alphabet.first = in.get(bits);
    alphabet.size = constant ? 1 : in.get(bits) + 1;
    if (!constant && alphabet.size < 2) return false;
    return !in.overrun() && alphabet.first + alphabet.size <= (1u << bits);
}

void write_table(BitWriter& out, const FrequencyTable& table, SymbolKind kind) {
    out.put(table.scale_bits, 4);
    write_alphabet(out, table.alphabet, kind, table.scale_bits == 0);
    WidthWriter widths(out, expected_width(table.scale_bits, table.alphabet.size));
    const auto& f = table.frequencies;
    const std::size_t last = f.size() - 1;  // implied by the sum
    for (std::size_t i = 0; i < last; ++i) {
        const unsigned width = static_cast<unsigned>(std::bit_width(f[i]));
        const std::uint32_t zeros = width == 0 ? zeros_after(f, i, last) : 0;
        widths.put(width, zeros);
        if (width > 1) out.put(f[i] & ((1u << (width - 1)) - 1), width - 1);
        i += zeros;
    }
}

bool read_table(BitReader& in, SymbolKind kind, FrequencyTable& table) {
    table.scale_bits = in.get(4);
    const bool constant = table.scale_bits == 0;
    if (!read_alphabet(in, kind, constant, table.alphabet)) return false;
    table.frequencies.assign(table.alphabet.size, 0);
    if (constant) {
        table.frequencies[0] = 1;
        return true;
    }
    const unsigned finest = table.alphabet.size <= 256 ? kMaxNarrowScaleBits : kMaxScaleBits;
    if (table.scale_bits < kMinScaleBits || table.scale_bits > finest) return false;
    WidthReader widths(in, expected_width(table.scale_bits, table.alphabet.size));
    const std::size_t last = table.alphabet.size - 1;
    std::uint32_t left = 1u << table.scale_bits;
    for (std::size_t i = 0; i < last; ++i) {
        unsigned width;
        std::uint32_t zeros;
        if (!widths.get(width, zeros) || in.overrun()) return false;
        if (width == 0) {
            if (zeros >= last - i) return false;
            i += zeros;
            continue;
        }
        const std::uint32_t f = 1u << (width - 1) | in.get(width - 1);
        if (f >= left) return false;  // something must be left for the last symbol
        table.frequencies[i] = f;
        left -= f;
    }
    // A single symbol that has the whole range must be written as a constant: the coder's states
    // rely on it.
    table.frequencies[last] = left;
    return left < (1u << table.scale_bits) && !in.overrun();
}

}  // namespace tersor
