#include "coding/bucket_plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "coding/frequency_table.hpp"
#include "coding/histogram.hpp"

namespace tersor {
namespace {

constexpr std::uint64_t kBit = 1u << 16;
constexpr std::uint64_t kEntryBits = 5;  // of a used symbol in a table, about
constexpr std::uint64_t kTableBits = 20;
constexpr unsigned kLogBits = 12;
constexpr std::size_t kManySymbols = 1u << 16;
constexpr unsigned kCacheBits = 10;  // tables of this scale stay in the first-level cache

// log2 of counts in 2^-16: to 2^-11, which is enough to choose between models.
class LogTable {
  public:
    LogTable() {
        for (std::size_t i = 1; i < logs_.size(); ++i) {
            logs_[i] = static_cast<std::uint32_t>(log2_fixed(i));
        }
    }
    std::uint64_t operator()(std::uint64_t value) const noexcept {
        const unsigned width = static_cast<unsigned>(std::bit_width(value));
        const unsigned shift = width > kLogBits ? width - kLogBits : 0;
        return logs_[value >> shift] + (std::uint64_t{shift} << 16);
    }

  private:
    std::array<std::uint32_t, std::size_t{1} << kLogBits> logs_{};
};

const LogTable& logs() {
    static const LogTable table;
    return table;
}

using Histogram = std::vector<std::uint32_t>;

// Bits (in 2^-16) of symbols with a table of their own, and of the table.
std::uint64_t cost_of(std::span<const std::uint32_t> counts) {
    const LogTable& log = logs();
    std::uint64_t total = 0;
    std::uint64_t used = 0;
    std::uint64_t inside = 0;
    for (const std::uint32_t count : counts) {
        if (count == 0) continue;
        total += count;
        ++used;
        inside += count * log(count);
    }
    if (total == 0) return 0;
    return total * log(total) - inside + (used * kEntryBits + kTableBits) * kBit;
}

struct Sums {
    std::vector<std::uint64_t> rows;
    std::vector<std::uint64_t> columns;
};

template <typename T>
Sums sum_magnitudes(std::span<const T> symbols, SymbolKind kind, const MatrixShape& shape,
                    std::uint32_t centre) {
    constexpr std::size_t kBatch = 1u << 14;  // of 16-bit magnitudes, whose sum fits 32 bits
    const std::size_t length = shape.row_length();
    Sums sums{std::vector<std::uint64_t>(shape.rows), std::vector<std::uint64_t>(length)};
    std::vector<std::uint32_t> columns(length);
    for (std::size_t r = 0; r < shape.rows; ++r) {
        const T* const row = symbols.data() + r * length;
        std::uint64_t total = 0;
        for (std::size_t j = 0; j < length; ++j) {
            const std::uint32_t index = to_index(row[j], kind);
            const std::uint32_t m = index > centre ? index - centre : centre - index;
            total += m;
            columns[j] += m;
        }
        sums.rows[r] = total;
        if (r % kBatch == kBatch - 1 || r + 1 == shape.rows) {
            for (std::size_t j = 0; j < length; ++j) {
                sums.columns[j] += columns[j];
                columns[j] = 0;
            }
        }
    }
    return sums;
}

// Scales from sums over `each` symbols: logarithms of their means, relative to the mean of all, in
// steps of 1/steps octave, shifted so that the least is 0.
std::vector<std::uint8_t> scales_of(const std::vector<std::uint64_t>& sums, std::size_t each,
                                    bool logarithmic, std::int64_t steps) {
    std::uint64_t total = 0;
    for (const std::uint64_t sum : sums) total += sum;
    const std::uint64_t mean = (total << 16) / (each * sums.size());
    constexpr std::int64_t kHalf = kMaxScale / 2;
    std::vector<std::int64_t> steps_of(sums.size());
    std::int64_t least = kHalf;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const std::uint64_t own = (sums[i] << 16) / each;
        // Magnitudes get a tenth of the mean added: few symbols say little about a small scale.
        const std::int64_t octaves =
            logarithmic ? (static_cast<std::int64_t>(own) - static_cast<std::int64_t>(mean)) / 4
                        : static_cast<std::int64_t>(log2_fixed(own + mean / 10 + 1)) -
                              static_cast<std::int64_t>(log2_fixed(mean + mean / 10 + 1));
        steps_of[i] = std::clamp((octaves * steps + (1 << 15)) >> 16, -kHalf, kHalf);
        least = std::min(least, steps_of[i]);
    }
    std::vector<std::uint8_t> scales(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
        scales[i] = static_cast<std::uint8_t>(steps_of[i] - least);
    }
    return scales;
}

Scales make_scales(const Sums& sums, const MatrixShape& shape, bool logarithmic, bool by_column,
                   std::int64_t steps) {
    Scales scales;
    scales.by_column = by_column;
    scales.rows = scales_of(sums.rows, shape.row_length(), logarithmic, steps);
    if (by_column) {
        scales.channels = scales_of(sums.columns, shape.rows, logarithmic, steps);
        scales.positions.assign(1, 0);
        return scales;
    }
    std::vector<std::uint64_t> channels(shape.channels);
    std::vector<std::uint64_t> positions(shape.kernel);
    for (std::size_t j = 0; j < sums.columns.size(); ++j) {
        channels[j / shape.kernel] += sums.columns[j];
        positions[j % shape.kernel] += sums.columns[j];
    }
    scales.channels = scales_of(channels, shape.rows * shape.kernel, logarithmic, steps);
    scales.positions = scales_of(positions, shape.rows * shape.channels, logarithmic, steps);
    return scales;
}

// (contexts, alphabet)
template <typename T>
std::vector<Histogram> count_contexts(std::span<const T> symbols, SymbolKind kind,
                                      const Scales& scales, std::uint32_t first,
                                      std::uint32_t alphabet) {
    const std::size_t length = scales.row_length();
    Histogram counts(scales.contexts() * alphabet);
    std::vector<std::uint32_t> base(length);
    for (std::size_t j = 0; j < length; ++j) base[j] = scales.column(j) * alphabet;
    for (std::size_t r = 0; r < scales.rows.size(); ++r) {
        std::uint32_t* const row_counts = counts.data() + std::size_t{scales.rows[r]} * alphabet;
        const T* const row = symbols.data() + r * length;
        for (std::size_t j = 0; j < length; ++j) {
            ++row_counts[base[j] + (to_index(row[j], kind) - first)];
        }
    }
    std::vector<Histogram> contexts;
    for (std::size_t c = 0; c < counts.size(); c += alphabet) {
        const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(c);
        contexts.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(alphabet));
    }
    return contexts;
}

// Contexts in runs, each with a table.
struct Grouping {
    std::vector<std::uint8_t> table_of;
    std::vector<Histogram> tables;
    std::uint64_t cost = 0;
};

// Starts with a table a context and merges neighbours while that saves bits or there are too many.
Grouping group_contexts(std::vector<Histogram> tables) {
    Grouping grouping;
    std::vector<std::size_t> run(tables.size(), 1);
    std::vector<std::int64_t> cost;
    for (const Histogram& h : tables) cost.push_back(static_cast<std::int64_t>(cost_of(h)));
    const auto merged = [&](std::size_t i) {
        Histogram sum = tables[i];
        for (std::size_t s = 0; s < sum.size(); ++s) sum[s] += tables[i + 1][s];
        return sum;
    };
    const auto loss = [&](std::size_t i) {
        return static_cast<std::int64_t>(cost_of(merged(i))) - cost[i] - cost[i + 1];
    };
    std::vector<std::int64_t> losses;
    for (std::size_t i = 0; i + 1 < tables.size(); ++i) losses.push_back(loss(i));
    while (!losses.empty()) {
        const auto best = std::min_element(losses.begin(), losses.end());
        if (*best > 0 && tables.size() <= kMaxBucketTables) break;
        const std::ptrdiff_t at = best - losses.begin();
        const std::size_t i = static_cast<std::size_t>(at);
        cost[i] += cost[i + 1] + *best;
        tables[i] = merged(i);
        run[i] += run[i + 1];
        tables.erase(tables.begin() + at + 1);
        run.erase(run.begin() + at + 1);
        cost.erase(cost.begin() + at + 1);
        losses.erase(best);
        if (i > 0) losses[i - 1] = loss(i - 1);
        if (i < losses.size()) losses[i] = loss(i);
    }
    for (std::size_t t = 0; t < tables.size(); ++t) {
        grouping.table_of.insert(grouping.table_of.end(), run[t], static_cast<std::uint8_t>(t));
        grouping.cost += static_cast<std::uint64_t>(cost[t]);
    }
    grouping.tables = std::move(tables);
    return grouping;
}

// The tables at one scale; `bits` becomes those of the stream and the model, in 2^-16. False if the
// scale is too coarse.
bool quantize(const std::vector<Histogram>& tables, BucketModel& model, std::uint64_t& bits) {
    const std::uint64_t full = std::uint64_t{model.scale_bits} << 16;
    bits = 0;
    model.frequencies.clear();
    for (const Histogram& histogram : tables) {
        const std::vector<std::uint64_t> counts(histogram.begin(), histogram.end());
        const auto unused = static_cast<std::size_t>(std::count(counts.begin(), counts.end(), 0u));
        if (counts.size() - unused > std::size_t{1} << (model.scale_bits - 1)) return false;
        auto f = normalize(counts, model.scale_bits);
        for (std::size_t i = 0; i < f.size(); ++i) {
            if (counts[i] > 0) bits += counts[i] * (full - log2_fixed(f[i]));
        }
        f.resize(kMaxBucketAlphabet);
        model.frequencies.push_back(std::move(f));
    }
    Bytes head;
    write_bucket_model(head, model);
    bits += 8 * head.size() * kBit;
    return true;
}

BucketPlan choose_scale(BucketModel model, const std::vector<Histogram>& tables,
                        std::size_t count) {
    BucketPlan plan;
    std::uint64_t best = std::numeric_limits<std::uint64_t>::max();
    const unsigned coarsest = count < kManySymbols ? kMinBucketBits : kCacheBits;
    for (model.scale_bits = coarsest; model.scale_bits <= kMaxBucketBits; ++model.scale_bits) {
        std::uint64_t bits = 0;
        if (!quantize(tables, model, bits)) continue;
        // A finer scale has to earn its place in the cache.
        if (model.scale_bits > kCacheBits) bits += bits >> 11;
        if (bits >= best) continue;
        best = bits;
        plan.model = model;
    }
    plan.bytes = static_cast<std::size_t>(best / kBit / 8);
    return plan;
}

}  // namespace

template <typename T>
bool plan_buckets(std::span<const T> symbols, SymbolKind kind, const MatrixShape& shape,
                  Magnitude magnitude, BucketPlan& plan) {
    if (shape.rows < 2) return false;
    std::uint32_t low = ~0u;
    std::uint32_t high = 0;
    for (const T symbol : symbols) {
        const std::uint32_t index = to_index(symbol, kind);
        low = std::min(low, index);
        high = std::max(high, index);
    }
    if (high - low >= kMaxBucketAlphabet) return false;
    const Sums sums =
        sum_magnitudes(symbols, kind, shape, magnitude.logarithmic ? low : magnitude.centre);
    BucketModel model;
    std::vector<Histogram> tables;
    std::uint64_t best = std::numeric_limits<std::uint64_t>::max();
    // Many symbols pay for finer scales; few ones try what suits them.
    const bool many = symbols.size() >= kManySymbols;
    const std::array<std::int64_t, 3> step_sizes = {4, 2, 1};
    for (const std::int64_t steps : std::span(step_sizes).first(many ? 1 : 3)) {
        for (const bool by_column : {true, false}) {
            if (!by_column && shape.kernel == 1) break;
            BucketModel trial;
            trial.first = low;
            trial.scales = make_scales(sums, shape, magnitude.logarithmic, by_column, steps);
            Grouping grouping =
                group_contexts(count_contexts(symbols, kind, trial.scales, low, high - low + 1));
            trial.table_of = std::move(grouping.table_of);
            const std::uint64_t cost = grouping.cost + scale_bits(trial.scales) * kBit;
            if (cost < best) {
                best = cost;
                model = std::move(trial);
                tables = std::move(grouping.tables);
            }
        }
    }
    plan = choose_scale(std::move(model), tables, symbols.size());
    return true;
}

template bool plan_buckets<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                         const MatrixShape&, Magnitude, BucketPlan&);
template bool plan_buckets<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                          const MatrixShape&, Magnitude, BucketPlan&);

}  // namespace tersor
