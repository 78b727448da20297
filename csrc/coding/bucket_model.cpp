#include "coding/bucket_model.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "coding/frequency_table.hpp"

namespace tersor {
namespace {

constexpr SymbolKind kTableKind{8, 0};
constexpr unsigned kMaxUnary = 24;

// Scales as Rice codes of their zigzagged distance from a middle, around which they lie.
struct RiceCode {
    std::uint32_t middle = 0;
    unsigned parameter = 0;  // 0..3

    std::uint32_t distance(std::uint32_t value) const noexcept {
        return value >= middle ? 2 * (value - middle) : 2 * (middle - value) - 1;
    }
    std::uint32_t unary(std::uint32_t value) const noexcept { return distance(value) >> parameter; }
};

// The code that takes the fewest bits.
RiceCode choose_rice(std::span<const std::uint8_t> values) {
    std::array<std::size_t, kMaxScale + 1> counts{};
    for (const std::uint8_t v : values) ++counts[v];
    RiceCode best;
    std::size_t best_bits = ~std::size_t{0};
    for (unsigned parameter = 0; parameter < 4; ++parameter) {
        for (std::uint32_t middle = 0; middle <= kMaxScale; ++middle) {
            const RiceCode code{middle, parameter};
            std::size_t bits = 0;
            bool fits = true;
            for (std::uint32_t v = 0; v <= kMaxScale; ++v) {
                bits += counts[v] * (code.unary(v) + 1 + parameter);
                fits = fits && (counts[v] == 0 || code.unary(v) <= kMaxUnary);
            }
            if (fits && bits < best_bits) {
                best_bits = bits;
                best = code;
            }
        }
    }
    return best;
}

// A bit: all are zero; else the Rice code's parameter (2 bits) and middle (5 bits), and the codes.
void put_scales(BitWriter& out, std::span<const std::uint8_t> values) {
    const bool flat = std::all_of(values.begin(), values.end(), [](auto v) { return v == 0; });
    out.put(flat, 1);
    if (flat) return;
    const RiceCode code = choose_rice(values);
    out.put(code.parameter, 2);
    out.put(code.middle, 5);
    for (const std::uint8_t v : values) {
        out.put(1u << code.unary(v), code.unary(v) + 1);
        out.put(code.distance(v) & ((1u << code.parameter) - 1), code.parameter);
    }
}

bool get_scales(BitReader& in, std::size_t count, std::vector<std::uint8_t>& values) {
    values.assign(count, 0);
    if (in.get(1) != 0) return !in.overrun();
    RiceCode code;
    code.parameter = in.get(2);
    code.middle = in.get(5);
    for (std::uint8_t& v : values) {
        const unsigned unary = static_cast<unsigned>(
            std::countr_zero(in.peek() | std::uint64_t{1} << (kMaxUnary + 1)));
        if (unary > kMaxUnary || in.overrun()) return false;
        in.skip(unary + 1);
        const std::uint32_t distance = unary << code.parameter | in.get(code.parameter);
        const std::uint32_t value =
            distance & 1 ? code.middle - (distance + 1) / 2 : code.middle + distance / 2;
        if (value > kMaxScale) return false;  // or below zero, which wraps
        v = static_cast<std::uint8_t>(value);
    }
    return !in.overrun();
}

// A table as the shared code writes them: without the zeros around it, a single symbol as constant.
FrequencyTable trimmed(const std::vector<std::uint32_t>& frequencies, unsigned scale_bits) {
    const CountedAlphabet counted = count_alphabet(
        std::vector<std::uint64_t>(frequencies.begin(), frequencies.end()), kTableKind);
    if (counted.alphabet.size == 1) return {counted.alphabet, 0, {1}};
    return {counted.alphabet, scale_bits, {counted.counts.begin(), counted.counts.end()}};
}

// `alphabet`: indices from there on must not occur.
bool read_frequencies(BitReader& in, unsigned scale_bits, std::uint32_t alphabet,
                      std::vector<std::uint32_t>& frequencies) {
    FrequencyTable table;
    if (!read_table(in, kTableKind, table)) return false;
    if (table.scale_bits != scale_bits && table.scale_bits != 0) return false;
    if (table.alphabet.first + table.alphabet.size > alphabet) return false;
    if (table.scale_bits == 0) table.frequencies[0] = 1u << scale_bits;
    frequencies.assign(kMaxBucketAlphabet, 0);
    std::copy(table.frequencies.begin(), table.frequencies.end(),
              frequencies.begin() + static_cast<std::ptrdiff_t>(table.alphabet.first));
    return true;
}

std::size_t largest(const std::vector<std::uint8_t>& values) {
    return *std::max_element(values.begin(), values.end());
}

}  // namespace

std::size_t Scales::contexts() const noexcept {
    return largest(rows) + largest(channels) + largest(positions) + 1;
}

std::size_t scale_bits(const Scales& scales) {
    Bytes bytes;
    BitWriter out(bytes);
    put_scales(out, scales.rows);
    put_scales(out, scales.channels);
    if (!scales.by_column) put_scales(out, scales.positions);
    return 8 * bytes.size() + out.pending_bits();
}

void write_bucket_model(Bytes& blob, const BucketModel& model) {
    BitWriter out(blob);
    out.put(model.first, 16);
    out.put(model.scale_bits - kMinBucketBits, 3);
    out.put(model.scales.by_column, 1);
    out.put(static_cast<std::uint32_t>(model.frequencies.size() - 1), 4);
    put_scales(out, model.scales.rows);
    put_scales(out, model.scales.channels);
    if (!model.scales.by_column) put_scales(out, model.scales.positions);
    const auto& table_of = model.table_of;
    for (std::size_t c = 0, run = 0; c + 1 < table_of.size(); ++c, ++run) {
        if (table_of[c + 1] == table_of[c]) continue;
        out.put_exp_golomb(static_cast<std::uint32_t>(run));
        run = ~std::size_t{0};
    }
    for (const auto& frequencies : model.frequencies) {
        write_table(out, trimmed(frequencies, model.scale_bits), kTableKind);
    }
    out.flush();
}

bool read_bucket_model(ByteView& blob, SymbolKind kind, const MatrixShape& shape,
                       BucketModel& model) {
    BitReader in(blob);
    Scales& scales = model.scales;
    model.first = in.get(16);
    model.scale_bits = in.get(3) + kMinBucketBits;
    scales.by_column = in.get(1) != 0;
    const std::size_t tables = in.get(4) + 1;
    if (in.overrun() || model.first >= kind.alphabet() || model.scale_bits > kMaxBucketBits) {
        return false;
    }
    scales.positions.assign(1, 0);
    if (!get_scales(in, shape.rows, scales.rows) ||
        !get_scales(in, scales.by_column ? shape.row_length() : shape.channels, scales.channels) ||
        (!scales.by_column && !get_scales(in, shape.kernel, scales.positions))) {
        return false;
    }
    model.table_of.assign(scales.contexts(), static_cast<std::uint8_t>(tables - 1));
    std::size_t context = 0;
    for (std::size_t t = 0; t + 1 < tables; ++t) {
        const std::size_t run = std::size_t{in.get_exp_golomb()} + 1;
        if (in.overrun() || run >= model.table_of.size() - context) return false;
        std::fill_n(model.table_of.begin() + static_cast<std::ptrdiff_t>(context), run,
                    static_cast<std::uint8_t>(t));
        context += run;
    }
    model.frequencies.resize(tables);
    const std::uint32_t alphabet = std::min(kMaxBucketAlphabet, kind.alphabet() - model.first);
    for (auto& frequencies : model.frequencies) {
        if (!read_frequencies(in, model.scale_bits, alphabet, frequencies)) return false;
    }
    if (!in.align()) return false;
    blob = in.rest();
    return true;
}

TableMap::TableMap(const BucketModel& model)
    : row_length_(model.scales.row_length()), place_(model.scales.rows.size()) {
    const Scales& scales = model.scales;
    std::array<std::uint8_t, kMaxScale + 1> place_of{};
    std::array<bool, kMaxScale + 1> seen{};
    for (std::size_t r = 0; r < scales.rows.size(); ++r) {
        const std::uint8_t scale = scales.rows[r];
        if (!seen[scale]) {
            seen[scale] = true;
            place_of[scale] = static_cast<std::uint8_t>(offsets_.size() / row_length_);
            for (std::size_t j = 0; j < row_length_; ++j) {
                const unsigned id = model.table_of[scale + scales.column(j)];
                offsets_.push_back(static_cast<std::uint16_t>(id << model.scale_bits));
            }
        }
        place_[r] = place_of[scale];
    }
}

void TableMap::fill(std::size_t begin, std::span<std::uint16_t> out) const noexcept {
    std::size_t row = begin / row_length_;
    std::size_t column = begin % row_length_;
    for (std::size_t i = 0; i < out.size(); ++row, column = 0) {
        const std::size_t n = std::min(out.size() - i, row_length_ - column);
        std::memcpy(out.data() + i, offsets_.data() + place_[row] * row_length_ + column,
                    n * sizeof(std::uint16_t));
        i += n;
    }
}

}  // namespace tersor
